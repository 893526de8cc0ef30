"""What makes two calls the same bulk job: model, settings, source; not the list, which may grow.

Whatever changes no row is left out: where the weights lie, the versions, the batch size, the deadline. So a job that
ran out of memory goes on with smaller batches.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

FREE = ("environment", "checkpoint", "deadline", "quarantine", "views.batch_size")  # notes that make no other job
SHORT = 60  # letters of a value that is said
MOST_SAID = 4  # differences

Identity = dict[str, Any]


def identity_of(notes: dict[str, Any], schema: pa.Schema, free: tuple[str, ...] = ()) -> Identity:
    """The notes of a job that make it this job and no other, nested ones by dotted names, and its columns."""
    kept = {name: value for name, value in flat(notes).items() if name not in (*FREE, *free)}
    return dict(json.loads(json.dumps({**kept, "columns": schema.names})))


def flat(notes: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"views": {"clips": 2}} -> {"views.clips": 2}, but for what is left out whole."""
    flattened: dict[str, Any] = {}
    for name, value in notes.items():
        nested = isinstance(value, dict) and name not in FREE
        flattened |= flat(value, f"{before}{name}.") if nested else {before + name: value}
    return flattened


def differences(there: Identity, now: Identity) -> str:
    """What differs, in a few words."""
    names = [name for name in {**now, **there} if there.get(name) != now.get(name)]
    said = [difference(name, there.get(name), now.get(name)) for name in names[:MOST_SAID]]
    return ", ".join(said) + (f" and {len(names) - MOST_SAID} more" if len(names) > MOST_SAID else "")


def difference(name: str, there: object, now: object) -> str:
    """`precision fp32 there, bf16 now`; of what is long, and no path, only its name."""
    if max(len(str(there)), len(str(now))) > SHORT and os.sep not in str(now):
        return f"another {name}"
    return f"{name} {there} there, {now} now"


def digest(identity: Identity) -> str:
    """Twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def digest_of_list(rows: Iterable[tuple[object, ...]]) -> str:
    """Twelve hexadecimal digits of what is listed, in its order."""
    whole = hashlib.sha256()
    for row in rows:
        whole.update(repr(row).encode("utf-8", "surrogatepass") + b"\n")
    return whole.hexdigest()[:12]
