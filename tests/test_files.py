"""Files are whole or absent; a lock is held by one and released by death."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hybridvideo import files
from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.files import append_line, locked, replacing_file, write_json, write_text

HOLD = """
import sys, time
from pathlib import Path
from hybridvideo.files import locked
with locked(Path(sys.argv[1]), "predict"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_file_is_complete_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "ünï\n")
    with pytest.raises(RuntimeError), replacing_file(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "ünï\n" and os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_a_disk_that_takes_nothing_is_one_line_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])

    def full(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "flush", full)
    with pytest.raises(EnvironmentFault, match=f"cannot write .*a.json: {os.strerror(number)}; ") as raised:
        write_json(path, [2])
    assert raised.value.exit_code == 4 and path.read_text() == "[\n 1\n]" and os.listdir(tmp_path) == ["a.json"]


def test_json_without_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not os.listdir(tmp_path)


def test_the_second_learns_who_holds_a_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    process = hold(path)
    try:
        expected = rf"predict, process {process.pid} on .* is using .*; wait until it finishes"
        with pytest.raises(UserError, match=expected), locked(path, "predict"):
            raise AssertionError("both hold it")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_death_releases_a_lock(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / ".lock"
    process = hold(path)
    process.send_signal(number)
    process.communicate()
    with locked(path, "predict"):
        assert path.exists()
    assert not path.exists()


def test_a_lock_holds_within_one_process_too(tmp_path: Path) -> None:
    with locked(tmp_path / ".lock", "train"), pytest.raises(UserError), locked(tmp_path / ".lock", "train"):
        raise AssertionError("both hold it")


def test_a_lock_can_be_waited_for(tmp_path: Path) -> None:
    process = hold(tmp_path / ".lock")
    threading.Timer(0.3, process.kill).start()
    with locked(tmp_path / ".lock", "predict", wait=True):
        assert process.wait() == -signal.SIGKILL
    process.communicate()


def test_a_lock_is_held_though_its_folder_is_removed_just_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, opened = tmp_path / "locks", []
    real = os.open

    def open_late(path: str | Path, flags: int, *mode: int) -> int:
        if not opened:
            folder.rmdir()
        opened.append(path)
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", open_late)
    with locked(folder / "door", "predict"):
        assert (folder / "door").exists() and len(opened) == 2


def test_lines_are_added_and_a_fault_is_one_line(tmp_path: Path) -> None:
    append_line(tmp_path / "a", "ünï")
    append_line(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "ünï\ntwo\n"
    with pytest.raises(EnvironmentFault, match=r"cannot write .*: Is a directory; "):
        append_line(tmp_path, "x")
