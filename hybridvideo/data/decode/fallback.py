"""What backend="auto" means: one library, and another one once the first cannot read the file.

Only `unsupported` makes it switch: damage is damage in every library. decord is not tried, since the file may not be
trustworthy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hybridvideo.data.decode.frames import Backend, ByteArray, FloatArray, Shot, VideoInfo
from hybridvideo.data.decode.known import Known
from hybridvideo.errors import EnvironmentFault, VideoError


class Fallback:
    """A `frames.Backend` that passes everything on to the one in use.

    names: backends in the order in which they are tried. load: name -> its class; raises EnvironmentFault.
    """

    def __init__(
        self,
        path: str,
        known: Known | None,
        names: Sequence[str],
        load: Callable[[str], Callable[[str, Known | None], Backend]],
    ) -> None:
        self.path, self._load = path, load
        self.name, *self._others = names
        try:
            self._backend = load(self.name)(path, known)
        except VideoError as error:
            self._backend = self._instead(error, known)

    @property
    def info(self) -> VideoInfo:
        return self._backend.info

    @property
    def times(self) -> FloatArray:
        return self._backend.times

    @property
    def status(self) -> str:
        return self._backend.status

    @property
    def reason(self) -> str:
        return self._backend.reason

    @property
    def fps(self) -> float:
        return self._backend.fps

    @property
    def decoded(self) -> int:
        return self._backend.decoded

    def decode(self, shots: Sequence[Shot]) -> list[ByteArray]:
        """Frames (U, H, W, C) of each shot, by the first backend that can."""
        while True:
            try:
                return self._backend.decode(shots)
            except VideoError as error:
                other = self._instead(error, self._backend.known())
                self._backend.close()
                self._backend = other

    def check(self) -> None:
        self._backend.check()

    def known(self) -> Known | None:
        known: Known | None = self._backend.known()
        return known

    def close(self) -> None:
        self._backend.close()

    def _instead(self, error: VideoError, known: Known | None) -> Backend:
        """Open the file with the next backend. Raises `error` if none is left, or another would be no better."""
        while error.status == "unsupported" and self._others:
            name = self._others.pop(0)
            try:
                backend = self._load(name)(self.path, known)
            except (VideoError, EnvironmentFault):
                continue
            self.name = name
            return backend
        raise error
