"""What may be opened at all, and how much may be decoded: one place for every backend.

Files come from strangers. A name must be that of a regular local file, never a URL, a pipe or a device; only
containers that hold pictures themselves are parsed, never playlists, which make a decoder follow addresses. PyAV opens
every file first, under these lists and limits; another library gets only what has passed, and only if its own rules
cannot take the file for something else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hybridvideo.errors import VideoError

# FFmpeg's demuxers that may read a file. Playlists (hls, dash, concat, sdp) and still pictures are not among them;
# audio containers are, so that a file without video is reported as such.
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
MAX_REQUEST_BYTES = 8 * 2**30  # RGB bytes per call
MAX_PACKETS = 3_000_000  # 27 hours at 30 frames per second; their index takes about 0.4 GB

MANY_PACKETS = 100_000  # never too many for a file, which may be truncated
SMALLEST_PACKET = 16  # bytes, on average over many

# The first bytes of files of these containers, and their offset. Other libraries recognise containers by their own,
# older rules and have no list of allowed ones: they get only what cannot be taken for a playlist.
SIGNATURES: dict[str, tuple[int, tuple[bytes, ...]]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": (
        4,
        (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot", b"styp", b"sidx", b"moof"),
    ),
    "matroska,webm": (0, (b"\x1a\x45\xdf\xa3",)),
    "avi": (8, (b"AVI ", b"AVIX")),
    "flv": (0, (b"FLV",)),
    "asf": (0, (b"\x30\x26\xb2\x75",)),
    "ogg": (0, (b"OggS",)),
    "nut": (0, (b"nut/multimedia container",)),
    "ivf": (0, (b"DKIF",)),
    "mpegts": (0, (b"\x47",)),
    "mpeg": (0, (b"\x00\x00\x01\xba",)),
}
# If these words occur anywhere in the part that they probe, old versions take a file for DASH, SDP or IMF.
PROBED_BYTES = 2**20
PLAYLIST_WORDS = (b"dash:profile", b"c=in ip", b"<compositionplaylist")

# The same limits as FFmpeg's options. An MP4 or MOV may refer to other files for its samples: those are never opened.
CONTAINER_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(CONTAINERS),
    "enable_drefs": "0",
    "use_absolute_path": "0",
}
CODEC_OPTIONS = {"max_pixels": str(MAX_FRAME_PIXELS)}


def regular_file(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of an existing, readable, non-empty regular file; symbolic links to one are followed.

    An absolute path cannot be taken for an option or a protocol (`-y.mp4`, `concat:a.mp4`). Raises VideoError:
    `missing`; `refused` for URLs, folders, pipes, devices and impossible names; `unreadable` for empty files and
    files this user may not read.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise VideoError("refused", f"{name!r}: a file name cannot contain a NUL")
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


def inside(path: str | os.PathLike[str], root: str | os.PathLike[str], strict: bool = False) -> str:
    """Return the path of a listed file: a relative one starts from `root` and stays in it; an absolute one is kept.

    `..` and symbolic links are resolved, and the result must be in the folder to which `root` resolves; `root` itself
    may be a link. strict: absolute paths must be in it too; for a root that the user has given.
    Raises VideoError `refused` for a path that leads outside or an impossible name; `missing` for a link outside that
    leads nowhere.
    """
    name, base = os.fspath(path), os.fspath(root)
    if "\0" in name:
        raise VideoError("refused", f"{name!r}: a file name cannot contain a NUL")
    joined = os.path.join(base, name)
    if os.path.isabs(name) and not strict:
        return joined
    end, top = os.path.realpath(joined), os.path.realpath(base)
    if end != top and not end.startswith(os.path.join(top, "")):
        if os.path.islink(joined) and not os.path.exists(joined):
            raise _not_there(joined)
        what = "give a root that contains it (/ contains every file)" if strict else "list it by its absolute path"
        raise VideoError("refused", f"{name!r} leads outside the data root {base!r}; {what}, or move the file there")
    return joined


def signed(path: str, container: str) -> None:
    """Check that a file begins like the container that PyAV has found, before another library opens it.

    container: FFmpeg's name for it. Raises VideoError: `unsupported` for containers without a signature (raw streams);
    `refused` for a file that begins differently, or contains what other versions of FFmpeg follow as a playlist.
    """
    if container not in SIGNATURES:
        raise VideoError("unsupported", f"{container} files are read by PyAV only; use backend='auto'")
    with open(path, "rb") as file:
        head = file.read(PROBED_BYTES)
    place, signatures = SIGNATURES[container]
    if not head[place:].startswith(signatures) or any(word in head.lower() for word in PLAYLIST_WORDS):
        reason = f"the file could be taken for something other than {container}; it is read with backend='auto' only"
        raise VideoError("refused", reason)


def check_frame_size(width: int, height: int) -> None:
    """Raise VideoError `refused` for a frame above MAX_FRAME_PIXELS, before anything is decoded."""
    if width * height > MAX_FRAME_PIXELS:
        raise VideoError("refused", f"frames of {width}x{height}; at most {MAX_FRAME_PIXELS:,} pixels are decoded")


def most_packets(path: str) -> int:
    """How many packets a file of its size may have: millions of empty ones take minutes to decode."""
    return min(MAX_PACKETS, MANY_PACKETS + os.path.getsize(path) // SMALLEST_PACKET)


def check_request(frames: int, width: int, height: int) -> None:
    """Raise VideoError `refused` for a request above MAX_REQUEST_BYTES of RGB."""
    size = frames * width * height * 3
    if size > MAX_REQUEST_BYTES:
        limit = f"at most {MAX_REQUEST_BYTES / 2**30:.0f} GiB at once, ask for fewer"
        reason = f"{frames} frames of {width}x{height} are {size / 2**30:.1f} GiB; {limit}"
        raise VideoError("refused", reason)


def _not_there(name: str) -> VideoError:
    if "://" in name:
        return VideoError("refused", f"{name!r}: a URL; only local files are read")
    if Path(name).is_symlink():
        return VideoError("missing", f"{name!r}: a link to {os.path.realpath(name)!r}, which does not exist")
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
