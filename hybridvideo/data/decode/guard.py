"""What may be opened at all, and how much may be decoded: one place, asked by every backend.

Files come from strangers. A name must be that of a regular local file, never a URL, a pipe or a device; only
containers that hold pictures themselves are parsed, never playlists, which make a decoder follow addresses.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hybridvideo.errors import VideoError

# FFmpeg's demuxers that may look at a file. Playlists (hls, dash, concat, sdp) and still pictures are not among them;
# audio containers are, so that a file without video is called that.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "flv",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "asf",
    "ogg",
    "rm",
    "mxf",
    "nut",
    "ivf",
    "obu",
    "h264",
    "hevc",
    "m4v",
    "dv",
    "gif",
    "mp3",
    "wav",
    "flac",
    "aac",
)
MAX_FRAME_PIXELS = 8192 * 8192  # per frame; an 8K panorama fits
MAX_REQUEST_BYTES = 8 * 2**30  # RGB bytes one call may ask for
MAX_PACKETS = 20_000_000  # a week at 30 frames a second
PLAYLIST_STARTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0", b"[playlist]", b"#EXT")

# The same limits in FFmpeg's words.
CONTAINER_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
CODEC_OPTIONS = {"max_pixels": str(MAX_FRAME_PIXELS)}


def regular_file(path: str | os.PathLike[str]) -> str:
    """The absolute path of an existing, readable, non-empty regular file; symbolic links to one are followed.

    An absolute path cannot be taken for an option or a protocol (`-y.mp4`, `concat:a.mp4`). Raises VideoError:
    `missing`; `refused` for URLs, folders, pipes, devices and impossible names; `unreadable` for empty files and
    files this user may not read.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise VideoError("refused", f"{name!r}: a file name cannot hold a NUL")
    try:
        status = os.stat(name)
    except FileNotFoundError:
        raise _not_there(name) from None
    except (OSError, ValueError) as error:
        raise VideoError("missing", f"{name!r}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("refused", f"{name!r}: {_kind(status.st_mode)}, not a regular file")
    if status.st_size == 0:
        raise VideoError("unreadable", "file is empty")
    if not os.access(name, os.R_OK):
        raise VideoError("unreadable", "no permission to read the file")
    return _in_utf8(os.path.abspath(name))


def check_frame_size(width: int, height: int) -> None:
    """Raise VideoError `refused` for a frame above MAX_FRAME_PIXELS, before anything is decoded."""
    if width * height > MAX_FRAME_PIXELS:
        raise VideoError("refused", f"frames of {width}x{height}; at most {MAX_FRAME_PIXELS:,} pixels are decoded")


def check_request(frames: int, width: int, height: int) -> None:
    """Raise VideoError `refused` for a request above MAX_REQUEST_BYTES of RGB."""
    size = frames * width * height * 3
    if size > MAX_REQUEST_BYTES:
        limit = f"at most {MAX_REQUEST_BYTES / 2**30:.0f} GiB at once, ask for fewer"
        reason = f"{frames} frames of {width}x{height} are {size / 2**30:.1f} GiB; {limit}"
        raise VideoError("refused", reason)


def unknown_container(path: str) -> VideoError:
    """The error for a file no allowed demuxer takes: a playlist is `refused`, anything else `unreadable`."""
    with open(path, "rb") as file:
        head = file.read(64).lstrip()
    if head.startswith(PLAYLIST_STARTS):
        return VideoError("refused", "a playlist or description of other files, not a video file")
    return VideoError("unreadable", "not a video container FFmpeg knows, or its index is cut off")


def _not_there(name: str) -> VideoError:
    if "://" in name:
        return VideoError("refused", f"{name!r}: a URL; only local files are read")
    if Path(name).is_symlink():
        return VideoError("missing", f"{name!r}: a symbolic link to nothing")
    return VideoError("missing", f"{name!r}: no such file")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _in_utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise VideoError("unsupported", f"{name!a}: the name is not valid UTF-8; rename the file") from None
    return name
