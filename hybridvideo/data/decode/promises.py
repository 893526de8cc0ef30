"""What a file's header promises, compared with what is there: how a truncated file is recognised."""

from __future__ import annotations

from itertools import pairwise

from hybridvideo.data.decode.cursor import Cursor
from hybridvideo.data.decode.packets import Packets


def promised_packets(cursor: Cursor, there: int) -> int:
    """Entries in the index of an MP4 or MOV, edit list applied; what an AVI counts; 0 if nothing is promised."""
    if _is_avi(cursor):
        return cursor.stream.frames if cursor.stream.frames > there + 1 else 0  # some count one too many
    return len(cursor.stream.index_entries) if cursor.container.format.name.startswith("mov") else 0


def ends_early(cursor: Cursor, packets: Packets) -> tuple[float, float] | None:
    """(end of the last packet, end by the header) in seconds, if the file stops well before the latter."""
    promised = _promised_end(cursor)
    times = sorted(time for time in (packets.dts if _is_avi(cursor) else packets.pts) if time is not None)
    if promised is None or not times:
        return None
    end = float((times[-1] + max(packets.durations)) * cursor.time_base)
    longest = float(max((after - before for before, after in pairwise(times)), default=0) * cursor.time_base)
    spare = max(0.5, 0.02 * promised, 2 * longest)  # the last picture of a slide show may be shown for long
    return (end, promised) if end < promised - spare else None


def _promised_end(cursor: Cursor) -> float | None:
    container, stream = cursor.container, cursor.stream
    if _is_avi(cursor):
        return None if not stream.frames else float(stream.frames * cursor.time_base)
    if not container.format.name.startswith(("matroska", "flv", "asf")):
        return None
    if (tag := _clock_seconds(stream.metadata.get("DURATION", ""))) is not None:
        return tag
    alone = len(container.streams) == 1  # else another stream may be the longer one
    return container.duration / 1e6 if alone and container.duration else None


def _is_avi(cursor: Cursor) -> bool:
    return cursor.container.format.name == "avi"


def _clock_seconds(text: str) -> float | None:
    """Seconds of `HH:MM:SS.fraction`, None for anything else."""
    parts = text.strip("\0 ").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
