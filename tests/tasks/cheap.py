"""A bulk job whose work is reading small text files, for tests; and processes of it that start at once.

`python -m tests.tasks.cheap` imports everything, then forks a process for each line it reads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from hybridvideo.config.jobs import Job
from hybridvideo.data.manifest import Manifest, read_manifest
from hybridvideo.errors import HybridVideoError
from hybridvideo.tasks.support.table_job import Finished, run_job
from hybridvideo.tasks.support.work import BulkWork

SCHEMA = pa.schema(
    [("path", pa.string()), ("status", pa.string()), ("reason", pa.string()), ("content", pa.string()),
     ("size", pa.float64()), ("words", pa.list_(pa.string())), ("bytes", pa.int64()), ("mtime_ns", pa.int64())]
)  # fmt: skip


def cheap_work(
    manifest: Manifest, log: Path, seconds: float = 0.0, timeouts: tuple[str, ...] = (), **settings: object
) -> BulkWork:
    """Reads each file. log: gets a line for each that was read. seconds: that each takes. settings: more notes."""

    def compute(order: Iterable[int]) -> Iterator[dict[str, Any]]:
        for index in order:
            time.sleep(seconds)
            path = manifest.rows[index].path
            with log.open("a") as file:
                file.write(f"{path}\n")
            yield {"index": index, "path": path, **read_text(manifest.file(index), path in timeouts)}

    return BulkWork("reading", {"job": "cheap", "root": str(manifest.root), **settings}, SCHEMA, compute)


def read_text(file: Path, timeout: bool) -> dict[str, Any]:
    """The columns of a file, good or bad."""
    nothing = {"content": None, "size": None, "words": []}
    if timeout:
        return {"status": "timeout", "reason": "took more than 1 s", **nothing}
    if not file.exists():
        return {"status": "missing", "reason": "no such file", **nothing}
    text = file.read_text()
    return {"status": "ok", "reason": "", "content": text, "size": len(text) / 3, "words": text.split()}


def write_texts(folder: Path, count: int) -> Path:
    """`count` small files in a new folder, named like videos."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04d}.mp4").write_text(f"this is\u2028text {number}\n")
    return folder


def run(
    source: Path, out: Path, log: Path, seconds: float = 0.0, join: bool = False, overwrite: bool = False,
    max_bad: float = 1.0, timeouts: tuple[str, ...] = (), **settings: object,
) -> Finished:  # fmt: skip
    """The whole job."""
    manifest = read_manifest(source, labelled=False)
    work = cheap_work(manifest, log, seconds, timeouts, **settings)
    return run_job(out, manifest, work, Job(max_bad=max_bad, join=join, overwrite=overwrite))


def lines(log: Path) -> list[str]:
    """What was read, in its order."""
    return log.read_text().splitlines() if log.exists() else []


# --- processes --------------------------------------------------------------------------------------------------------


class Nursery:
    """Starts processes that run the job, and tells how they ended."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.tasks.cheap"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, source: Path, out: Path, log: Path, errors: Path, seconds: float, **options: bool) -> int:
        """The process id of a job that has begun. errors: gets what it prints."""
        texts = {"source": source, "out": out, "log": log, "errors": errors}
        return self._ask({name: str(path) for name, path in texts.items()} | {"seconds": seconds} | options)

    def wait(self, process: int) -> int:
        """Its exit code; below 0 the signal that ended it."""
        return self._ask({"wait": process})

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it; its children have been waited for."""
        self._process.communicate()


def serve() -> None:
    """Fork for each line of standard input."""
    for line in sys.stdin:
        question = json.loads(line)
        answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1]) if "wait" in question else fork(question)
        print(answer, flush=True)


def fork(question: dict[str, Any]) -> int:
    """A child that runs the job and leaves with its exit code."""
    if child := os.fork():
        return child
    paths = {name: Path(question.pop(name)) for name in ("source", "out", "log")}
    with Path(question.pop("errors")).open("w", buffering=1) as errors:
        sys.stderr = errors
        try:
            run(**paths, **question)
            code = 0
        except HybridVideoError as error:
            print(f"error: {error}", file=errors)
            code = error.exit_code
    os._exit(code)


if __name__ == "__main__":
    serve()
