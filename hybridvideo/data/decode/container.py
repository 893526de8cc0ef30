"""Opening a file with FFmpeg, through PyAV, under the guard, and finding its video stream."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from hybridvideo.data.decode import guard
from hybridvideo.data.decode.contents import unknown_contents
from hybridvideo.errors import VideoError

# Without a look ahead FFmpeg cannot guess how far frames are reordered if an H.264 stream does not state it:
# assume the maximum.
LONGEST_REORDERING = {"strict": "strict"}
LESS_DEBLOCKING = {"skip_loop_filter": "noref"}  # of frames that nothing refers to
NO_LOOK_AHEAD = {"skip_frame": "all", "analyzeduration": "1"}
# The first bytes of files whose header describes the streams: opening them need not decode anything to find out.
SELF_DESCRIBING = {4: (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"), 0: (b"\x1a\x45\xdf\xa3",)}
MOST_CALLS = 100_000  # each skips 64 kB of junk
# What PyAV raises for a bad file; LookupError if a stream turns up that the header does not mention.
FAULTS = (av.FFmpegError, OSError, ValueError, RuntimeError, LookupError, ArithmeticError, MemoryError)


def open_container(path: str, careful: bool) -> InputContainer:
    """Open the file with an allowed demuxer; careful: FFmpeg may decode some frames to learn about it."""
    options = guard.CONTAINER_OPTIONS | guard.CODEC_OPTIONS | ({} if careful else NO_LOOK_AHEAD)
    try:
        return av.open(path, "r", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        if isinstance(error, av.error.InvalidDataError | av.error.ArgumentError):
            raise unknown_contents(path) from None
        if isinstance(error, EOFError):
            raise unknown_contents(path, "the file ends before its first frame") from None
        raise VideoError("unreadable", words(error)) from None
    except FAULTS as error:
        raise VideoError("unreadable", words(error)) from None


def video_stream(container: InputContainer) -> VideoStream:
    """Return the stream that FFmpeg's own players would show; cover pictures of music do not count."""
    pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    best = container.streams.best("video")
    if not streams:
        what = "only a cover picture" if container.streams.video else "no video stream"
        raise VideoError("no_video", f"the file has {what}")
    chosen = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if getattr(chosen, "codec_context", None) is None:
        raise VideoError("unsupported", "this FFmpeg has no decoder for the video stream")
    return chosen


def demuxed(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the packets of a stream from the demuxer's position on, with the empty one at the end.

    A demuxer of transport streams that meets a long stretch of junk asks to be called again (EAGAIN); it is.
    """
    for _ in range(MOST_CALLS):
        try:
            yield from container.demux(stream)
            return
        except BlockingIOError:
            continue
    raise VideoError("unreadable", "no packets found, only junk")


def describes_itself(path: str) -> bool:
    """Whether the file's header contains enough about its streams to decode them."""
    with open(path, "rb") as file:
        head = file.read(8)
    return any(head[place:].startswith(starts) for place, starts in SELF_DESCRIBING.items())


_turn = threading.Lock()
_ears: list[contextlib.ExitStack] = []  # one per listener; the first holds what restores FFmpeg's log
_heard: list[list[tuple[int, str, str]]] = [[]]


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Record FFmpeg's complaints meanwhile: a decoder that conceals damage often reports it in its log only.

    Nothing is printed. A log level that someone else has set is left alone; then only errors are recorded.
    """
    with _turn:
        if not _ears and av.logging.get_level() is None:
            _ears.append(_opened())
        else:
            _ears.append(contextlib.ExitStack())
    try:
        yield
    finally:
        with _turn:
            if len(_ears) > 1:
                _ears.pop()
            else:
                _ears.pop().close()


def _opened() -> contextlib.ExitStack:
    """Collect FFmpeg's errors and warnings, of every thread, in a list; closing it restores everything."""
    with contextlib.ExitStack() as stack:
        stack.callback(av.logging.set_skip_repeated, av.logging.get_skip_repeated())
        stack.callback(av.logging.set_level, None)
        capture = av.logging.Capture(local=False)
        _heard[0] = capture.__enter__()
        stack.callback(capture.__exit__, None, None, None)
        av.logging.set_skip_repeated(False)
        av.logging.set_level(av.logging.WARNING)
        return stack.pop_all()


def complaints(errors_only: bool = False) -> int:
    """A number that changes when FFmpeg complains, in any thread of this process, while someone listens."""
    errors: int = av.logging.get_last_error()[0]
    return errors if errors_only else errors + len(_heard[0])


def words(error: BaseException) -> str:
    """FFmpeg's text for an error, without the path and the number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
