"""Describe a file that no demuxer accepts, in plain words: most are failed downloads."""

from __future__ import annotations

from hybridvideo.errors import VideoError

PLAYLIST_STARTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0", b"[playlist]", b"#EXT")
HEAD = 2**20  # bytes that are examined
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
TEXT = bytes({*range(0x20, 0x100), *b"\t\n\r\f\b\x1b"} - {0x7F})

# What files begin with, and what they then are. The first match counts.
STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself (`git lfs pull`)"),
    (b"<!doctype html", "a web page, so the download failed"),
    (b"<html", "a web page, so the download failed"),
    (b"{", "JSON text, so the download may have failed"),
    (b"\x89png", "a PNG picture"),
    (b"\xff\xd8\xff", "JPEG pictures"),
    (b"riff", "a RIFF file that is cut off or not an AVI"),
    (b"pk\x03\x04", "a ZIP archive; unpack it"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"rar!", "a RAR archive; unpack it"),
    (b"%pdf", "a PDF document"),
    (b"\x7felf", "a program"),
    (b"yuv4mpeg2", "raw YUV4MPEG2 pictures, which are not read here; convert it with ffmpeg"),
)
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"styp", b"moof")


UNKNOWN = "not a video container FFmpeg knows, or its index is cut off"


def unknown_contents(path: str, otherwise: str = UNKNOWN) -> VideoError:
    """Return the error for a file that no allowed demuxer accepts: `refused` for playlists, `unsupported` if encrypted.

    otherwise: the reason if its content is not recognised here.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    start = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if start.startswith(PLAYLIST_STARTS):
        return VideoError("refused", "a playlist or description of other files, not a video file")
    if head[4:8] in MP4_BOXES and b"encv" in head:
        return encrypted()
    return VideoError("unreadable", _unreadable(head, start[:64].lower(), otherwise))


def encrypted() -> VideoError:
    """Return the error for pictures that need a key."""
    return VideoError("unsupported", "the video is encrypted; decrypt it first")


def _unreadable(head: bytes, start: bytes, otherwise: str) -> str:
    if head[4:8] in MP4_BOXES:
        return "an MP4 or MOV file whose index (moov) is missing or broken: cut off, or never finished"
    what = _looks_like(head, start)
    return f"not a video container FFmpeg knows: it is {what}" if what else otherwise


def _looks_like(head: bytes, start: bytes) -> str:
    for beginning, what in STARTS:
        if start.startswith(beginning):
            return what
    if not head.strip(b"\0"):
        return "only zeros"
    return "text" if not head[:4096].translate(None, TEXT) else ""
