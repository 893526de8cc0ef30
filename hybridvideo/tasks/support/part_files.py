"""The rows of a bulk job that is not finished: one file per piece of the list; a damaged one is computed again.

OUT.parts/job.json                      what the job is, for people and for the message that refuses another job
OUT.parts/part-JOB-LIST-000012.jsonl    rows of piece 12: a line of what it covers, then a line for each row

JOB and LIST are digests of the job and of its list, so that a part can be attributed without job.json. A part whose
checksum does not match (a power cut, a bad disk) counts as absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from hybridvideo.documents import load_json, read_bytes
from hybridvideo.errors import UserError
from hybridvideo.files import replacing_file, writing
from hybridvideo.tasks.support.output_table import Rows

MOST_INPUTS = 128  # of a piece
LARGEST = 2**31  # bytes of a part
ADVICE = "give --overwrite to start over"
PIECES = 32  # of a short list, so that several processes find some

Stamp = tuple[int | None, int | None]  # bytes and mtime_ns of a file; None if there is none


class Parts:
    """The rows that are kept, by piece. job, listing: digests. inputs: of the list."""

    def __init__(self, folder: Path, job: str, listing: str, inputs: int) -> None:
        self.folder, self.job, self.listing, self.inputs = folder, job, listing, inputs
        self.size = min(max(inputs // PIECES, 1), MOST_INPUTS)
        self._begun: tuple[int, int] | None = None

    @property
    def pieces(self) -> range:
        """Return the numbers of all pieces."""
        return range(-(-self.inputs // self.size))

    def members(self, piece: int) -> range:
        """Return the positions in the list of a piece's inputs."""
        return range(piece * self.size, min((piece + 1) * self.size, self.inputs))

    def path(self, piece: int) -> Path:
        """Return the file of a piece."""
        return self.folder / f"part-{self.job}-{self.listing}-{piece:06d}.jsonl"

    def write(self, piece: int, rows: Rows, stamps: Mapping[int, Stamp]) -> None:
        """Replace the rows of a piece. Each input's rows are complete. stamps: of the files as they were read."""
        covered = {row["index"]: stamps[row["index"]] for row in rows}
        body = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        inputs = [[index, *stamp] for index, stamp in covered.items()]
        head = {"crc32": zlib.crc32(body), "inputs": inputs}
        with replacing_file(self.path(piece)) as aside:
            aside.write_bytes(json.dumps(head).encode() + b"\n" + body)

    def covered(self, piece: int) -> dict[int, Stamp]:
        """Return the inputs of a piece that have rows, with the stamps of their files."""
        return opened(self.path(piece))[0]

    def missing(self, piece: int) -> list[int]:
        """Return the inputs of a piece that have no row."""
        covered = self.covered(piece)
        return [index for index in self.members(piece) if index not in covered]

    def read(self, piece: int) -> Rows:
        """Return the rows of a piece, each with the `index` of its input; none if they were not kept or are damaged."""
        return rows_in(opened(self.path(piece))[1])

    def of_other_lists(self) -> list[Path]:
        """Return parts of the same job that were made for another list."""
        own = f"part-{self.job}-{self.listing}-"
        return [path for path in sorted(self.folder.glob(f"part-{self.job}-*.jsonl")) if not path.name.startswith(own)]

    def of_other_jobs(self) -> bool:
        """Return whether there are parts of another job."""
        return any(not name.startswith(f"part-{self.job}-") for name in self._names())

    def of_this_job(self) -> bool:
        """Return whether this job has worked here."""
        return any(name.startswith(f"part-{self.job}-") for name in self._names())

    def _names(self) -> Iterator[str]:
        return (path.name for path in self.folder.glob("part-*.jsonl"))

    def begin(self) -> None:
        """Remember the folder as it is, to notice when another process has removed it."""
        self._begun = self._folder_now()

    def are_gone(self) -> bool:
        """Return whether the folder has been removed since: the table is written."""
        return self._folder_now() is None or self._folder_now() != self._begun

    def _folder_now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.folder)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def remove(self) -> None:
        """Remove the folder, atomically, as seen by other processes."""
        gone = self.folder.with_name(f".{self.folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)  # of a call that was killed in here
        if self.folder.exists():
            with writing(self.folder):
                os.replace(self.folder, gone)
            shutil.rmtree(gone, ignore_errors=True)


def opened(path: Path) -> tuple[dict[int, Stamp], bytes]:
    """Return what a part covers, and its rows as bytes; nothing if it is absent or incomplete."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        head, end, body = read_bytes(path, "", LARGEST).partition(b"\n")
        facts = load_json(head, str(path), "")
        if end and facts["crc32"] == zlib.crc32(body):
            return {int(index): (size, changed) for index, size, changed in facts["inputs"]}, body
    return {}, b""


def rows_in(body: bytes) -> Rows:
    """Return the rows of a part; a name may contain other line ends. Raise UserError for anything else."""
    try:
        rows = [json.loads(line) for line in body.split(b"\n") if line]  # a feature may hold NaN
    except (ValueError, RecursionError) as error:
        raise UserError(f"a file of finished rows is unreadable ({type(error).__name__}); {ADVICE}") from None
    return [row for row in rows if isinstance(row, dict) and "index" in row]
