"""Reading video files: frames by index, by time or by range, exact, upright, RGB.

    with VideoReader("clip.mp4") as reader:
        reader.info.frames, reader.info.fps, reader.times
        clip = reader.frames_at([0, 8, 16])

A decoding library is one file in this folder and one line in BACKENDS. Its class is a `frames.Backend`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import math
import operator
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, SupportsIndex, TypeVar, cast

import numpy as np
import torch

from hybridvideo.data.decode import guard
from hybridvideo.data.decode.fallback import Fallback
from hybridvideo.data.decode.frames import (
    WHOLE,
    Backend,
    ByteArray,
    Clip,
    FloatArray,
    Framer,
    Framing,
    Shot,
    Size,
    VideoInfo,
    between,
    shown_at,
)
from hybridvideo.data.decode.known import IndexCache, Known
from hybridvideo.data.stages import stage
from hybridvideo.errors import EnvironmentFault, HybridVideoError, UserError, VideoError, nearest

__all__ = ["AUTO", "BACKENDS", "WHOLE", "Clip", "Framing", "IndexCache", "VideoInfo", "VideoReader"]

# name -> (module, class); the module is imported when a reader of that name is opened.
BACKENDS = {
    "pyav": ("hybridvideo.data.decode.pyav", "PyAVBackend"),
    "torchcodec": ("hybridvideo.data.decode.torchcodec", "TorchcodecBackend"),
    "decord": ("hybridvideo.data.decode.decord", "DecordBackend"),
}
AUTO = ("pyav", "torchcodec")  # what backend="auto" tries, in this order


P = ParamSpec("P")
R = TypeVar("R")


def _in_turn(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Make a method of a reader wait while another thread is in one: no library supports two at once."""

    @functools.wraps(method)
    def waiting(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if os.getpid() != self._process:  # the position in the file, and perhaps the lock, belong to the other process
            raise UserError(f"{self.path} was opened in another process; open it again in this one")
        with self._turn:
            return method(self, *args, **kwargs)

    return waiting


class VideoReader:
    """One open video file. Close it, or use it as a context manager; it belongs to the process that opened it.

    Threads may share a reader: they are served one after another, and `close` waits for the one that is reading.
    Readers of their own serve them in parallel.

    Frames are counted from 0 in presentation order. Every frame is upright (the display matrix is applied) and of the
    size of the first one (if a stream changes its size, frames are scaled).

    Damage. At first `info.frames` counts what the file's packets promise. If one of them turns out not to decode, the
    complete file is decoded once, `info` and `times` shrink to the frames that do decode, `status` becomes "partial",
    `reason` counts them, and the call raises VideoError("partial", reason): sample again and call again.
    A file that holds less than its header promises is "partial" from the start and readable as far as it goes.

    An index means the same frame whatever else is read before or along with it, until such an error announces other
    frames; indices counted by `times` that have changed meanwhile raise it too. A frame is decoded from the middle of a
    file only if nothing suggests that reading from the start would give another result; once damage is met, everything
    is decoded from the start, so that pixels too depend only on file and index. The limit is what no decoder notices:
    the pixels of a picture whose damage was silently concealed may depend on where decoding began.

    Args:
        path: a regular local file.
        backend: a name in BACKENDS, or "auto": PyAV, or if that cannot read the file the next of AUTO that is
            installed; the attribute `backend` then names the one in use.
        index: what is known about files that were opened before; this file is looked up in it, and added to it when the
            reader is closed.

    Raises VideoError for anything wrong with the file, UserError for a wrong argument, EnvironmentFault for a backend
    that is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], backend: str = "auto", index: IndexCache | None = None) -> None:
        self.path = os.fspath(path)
        self._turn, self._process = threading.RLock(), os.getpid()
        self._asked, open_backend = backend, _backend(backend)
        self._file, self._index = guard.regular_file(path), index
        self._seen: FloatArray | None = None  # the times by which the caller counts, if it has asked for them
        with _typed(), stage("open"):
            self._backend = open_backend(self._file, index.get(self._file) if index is not None else None)

    @property
    @_in_turn
    def backend(self) -> str:
        """The name of the backend in use; with "auto" it changes if the first cannot decode the file."""
        return self._backend.name if isinstance(self._backend, Fallback) else self._asked

    @property
    @_in_turn
    def info(self) -> VideoInfo:
        with _typed():
            return self._backend.info

    @property
    @_in_turn
    def times(self) -> FloatArray:
        """Seconds of every frame, ascending, the first 0.0; float64, read-only."""
        self._seen = self._backend.times
        return self._seen

    @property
    @_in_turn
    def fps(self) -> float:
        """Frames per second, averaged over the frame times; as in `info`, but without decoding a frame."""
        return self._backend.fps

    @property
    @_in_turn
    def frames_decoded(self) -> int:
        """Frames decoded so far, including unrequested ones."""
        return self._backend.decoded

    @property
    @_in_turn
    def status(self) -> str:
        """`ok`, or `partial` if the file is known to be damaged or truncated."""
        return self._backend.status

    @property
    @_in_turn
    def reason(self) -> str:
        """One line about the damage; empty if there is none."""
        return self._backend.reason

    def frames_at(self, indices: Sequence[SupportsIndex], framing: Framing | Framer = WHOLE) -> Clip:
        """Return the frames at these indices, 0 to info.frames - 1, in the given order, with any repetitions.

        framing: a part of each frame, scaled on the way to RGB, instead of full frames; or a function that returns it
        for the upright frames' (height, width).
        Raises VideoError: `partial` (see the class), `unreadable`, `unsupported`, `refused` (too much at once).
        """
        return self.clips_at([(indices, framing)])[0]

    @_in_turn
    def clips_at(
        self, clips: Sequence[tuple[Sequence[SupportsIndex], Framing | Framer]], exact: bool = True
    ) -> list[Clip]:
        """Return several clips, each as from `frames_at`, from one pass over the file: each frame is decoded once.

        exact: False leaves out H.264's deblocking of frames that no other frame refers to: 2 to 5 % faster, with a mean
        difference of 0.05 grey levels in those frames once they are scaled. Meant for training clips.
        """
        wanted = [[operator.index(index) for index in indices] for indices, _ in clips]
        times = self._backend.times if self._seen is None else self._seen
        self._check_unmoved(times)
        for indices in wanted:
            self._check_indices(indices)
        shots = [
            Shot(sorted(set(indices)), _checked(framing), exact)
            for indices, (_, framing) in zip(wanted, clips, strict=True)
        ]
        with _typed(), stage("decode"):
            arrays = self._backend.decode(shots)
        self._check_unmoved(times)
        return [self._clip(*parts) for parts in zip(arrays, shots, wanted, strict=True)]

    def _clip(self, frames_UHWC: ByteArray, shot: Shot, wanted: list[int]) -> Clip:
        if shot.indices != wanted:
            guard.check_request(len(wanted), *frames_UHWC.shape[2:0:-1])
            place = {index: position for position, index in enumerate(shot.indices)}
            frames_UHWC = frames_UHWC[[place[index] for index in wanted]]
        return Clip(torch.from_numpy(frames_UHWC).permute(0, 3, 1, 2), tuple(self._backend.times[wanted].tolist()))

    @_in_turn
    def frames_at_times(self, times: Sequence[float]) -> Clip:
        """Return the frame shown at each time in seconds: the last one that is not later.

        Before the first frame that is the first one, after the end the last one.
        """
        moments = np.asarray([float(time) for time in times], dtype=np.float64)
        if not np.isfinite(moments).all():
            raise UserError(f"{self.path}: times must be finite seconds, not {list(times)}")
        return self.frames_at(shown_at(self.times, moments))

    @_in_turn
    def frames_between(self, start: float, end: float, fps: float | None = None) -> Clip:
        """Return all frames with start <= time < end, in seconds; with `fps`, those shown at start, start + 1/fps, ...

        Ticks of `fps` end with the video. Raises VideoError `short` if the video has no frame there.
        """
        if not (math.isfinite(start) and math.isfinite(end) and start < end):
            raise UserError(f"{self.path}: frames_between needs start < end in seconds, not {start} and {end}")
        if fps is not None and not 0 < fps < math.inf:
            raise UserError(f"{self.path}: fps must be a positive number, not {fps}")
        return self.frames_at(between(self.times, self.info.duration, start, end, fps))

    @_in_turn
    def check(self) -> VideoInfo:
        """Decode the complete file once, keep the frames that decode, set `status` and `reason`; return the new info.

        Raises VideoError `unreadable` if none does.
        """
        with _typed():
            self._backend.check()
        self._seen = None
        return self.info

    @_in_turn
    def forget(self) -> None:
        """Do not pass on what was learned here to later readers."""
        self._index = None

    def close(self) -> None:
        """Close the file; does nothing in a fork, in which the file belongs to another process."""
        if os.getpid() == self._process:
            with stage("open"):
                self._close()

    @_in_turn
    def _close(self) -> None:
        if self._index is not None and (known := self._backend.known()) is not None:
            self._index.put(self._file, known)
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_unmoved(self, times: FloatArray) -> None:
        """Raise VideoError `partial` if the frames are no longer the requested ones."""
        now = self._backend.times
        if now is not times and not np.array_equal(now, times):
            self._seen = None
            raise VideoError("partial", self._backend.reason)

    def _check_indices(self, indices: list[int]) -> None:
        if not indices:
            raise UserError(f"{self.path}: no frames asked for; give at least one index or time")
        last = len(self._backend.times) - 1
        if min(indices) < 0 or max(indices) > last:
            wrong = min(indices) if min(indices) < 0 else max(indices)
            raise UserError(f"{self.path}: frame {wrong} is outside 0..{last}")


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    """Treat unforeseen errors of a decoding library as faults of the file, so that they end no job.

    Running out of memory is not one: in a worker it is a strike, elsewhere the machine's fault.
    """
    try:
        yield
    except (HybridVideoError, MemoryError):
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):
            raise  # torch's wording
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise EnvironmentFault(f"{error.strerror}; close some readers, or raise `ulimit -n`") from error
        raise VideoError("unreadable", f"the decoder failed: {type(error).__name__}: {error}") from error


def _checked(framing: Framing | Framer) -> Framer:
    """The framing as a function of the frame's size that refuses what does not fit.

    If a function returned the framing, it is the file's shape that does not fit, such as 4096x2 pixels at a short side
    of 224.
    """
    if not callable(framing):
        return framing.within

    def fitting(size: Size) -> Framing:
        try:
            return framing(size).within(size)
        except UserError as error:
            raise VideoError("refused", f"frames of {size[1]}x{size[0]} pixels cannot be used: {error}") from None

    return fitting


def _backend(name: str) -> Callable[[str, Known | None], Backend]:
    if name == "auto":
        return lambda path, known: Fallback(path, known, AUTO, _loaded)
    if name not in BACKENDS:
        allowed = ("auto", *BACKENDS)
        hint = nearest(name, allowed)
        raise UserError(f"no decoding backend is called {name!r}{hint}; allowed: {', '.join(allowed)}")
    return _loaded(name)


def _loaded(name: str) -> Callable[[str, Known | None], Backend]:
    module, kind = BACKENDS[name]
    try:
        backend = getattr(importlib.import_module(module), kind)
    except (ImportError, OSError, RuntimeError) as error:  # decord and torchcodec load shared libraries
        advice = f"pip install 'hybridvideo[{name}]', or use backend='auto'"
        raise EnvironmentFault(f"the decoding backend {name!r} cannot be loaded here: {error}; {advice}") from error
    return cast(Callable[[str, Known | None], Backend], backend)
