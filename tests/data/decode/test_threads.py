"""One reader in several threads: each is served, one after another, by every backend; closing waits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybridvideo.data.decode import BACKENDS, VideoReader
from hybridvideo.errors import UserError
from tests.data.decode.backends import need
from tests.videos import write_video

TOGETHER = """
import random, sys, threading
from hybridvideo.data.decode import VideoReader
from hybridvideo.errors import UserError
from tests.videos import numbers

path, backend = sys.argv[1:]
wrong, closed = [], []

def read(reader, seed, rounds):
    draw = random.Random(seed)
    for _ in range(rounds):
        wanted = [draw.randrange(60) for _ in range(4)]
        try:
            shown = numbers(reader.frames_at(wanted).frames_TCHW)
            facts = reader.info.frames, len(reader.times), reader.status, reader.backend, reader.fps
            if shown != wanted or facts[:3] != (60, 60, "ok"):
                wrong.append((wanted, shown, facts))
        except UserError as error:
            closed.append(error)
            return
        except BaseException as error:
            wrong.append(repr(error))

def together(rounds, end):
    reader = VideoReader(path, backend=backend)
    threads = [threading.Thread(target=read, args=(reader, seed, rounds)) for seed in range(4)]
    for thread in threads:
        thread.start()
    if end:
        read(reader, 9, 2)
        reader.close()
    for thread in threads:
        thread.join()
    reader.close()

together(12, False)
assert not closed
for _ in range(3):
    together(10_000, True)
assert len(closed) == 12 and not wrong, wrong[:3]
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_a_reader_and_closing_ends_them(tmp_path: Path, backend: str) -> None:
    """In a process of its own, since what goes wrong here kills it."""
    path = write_video(tmp_path / "video.mp4", 60, gop=12)
    command = [sys.executable, "-c", TOGETHER, str(path), need(backend)]
    done = subprocess.run(command, timeout=90, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_facts_that_need_the_file_are_refused_once_it_is_closed(tmp_path: Path, backend: str) -> None:
    reader = VideoReader(write_video(tmp_path / "video.mp4", 5), backend=need(backend))
    times = reader.times
    reader.close()
    for ask in (lambda: reader.info, reader.check, lambda: reader.frames_between(0, 1)):
        with pytest.raises(UserError, match="closed"):
            ask()
    assert len(times) == len(reader.times) == 5 and reader.fps == 25 and reader.status == "ok"


def test_another_process_opens_a_reader_of_its_own(tmp_path: Path) -> None:
    with VideoReader(write_video(tmp_path / "video.mp4", 5)) as reader:
        if (child := os.fork()) == 0:
            try:
                reader.frames_at([0])
            except UserError as error:
                os._exit(3 if "another process" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert len(reader.frames_at([0, 4])) == 2
