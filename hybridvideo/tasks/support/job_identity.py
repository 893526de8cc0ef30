"""What identifies a bulk job: model, settings, source; not the list, which may grow.

Whatever does not change rows is left out: the path of the weights, versions, the batch size, the deadline. So a job
that ran out of memory can continue with smaller batches.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

FREE = ("environment", "checkpoint", "deadline", "quarantine", "views.batch_size")  # notes that make no other job
SHORT = 60  # characters of a value in a message
MOST_SAID = 4  # differences in a message

Identity = dict[str, Any]


def identity_of(notes: dict[str, Any], schema: pa.Schema, free: tuple[str, ...] = ()) -> Identity:
    """Return the notes that identify a job, nested ones by dotted names, and its columns."""
    kept = {name: value for name, value in flat(notes).items() if name not in (*FREE, *free)}
    return dict(json.loads(json.dumps({**kept, "columns": schema.names})))


def flat(notes: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"views": {"clips": 2}} -> {"views.clips": 2}, without the names that do not count."""
    flattened: dict[str, Any] = {}
    for name, value in notes.items():
        nested = isinstance(value, dict) and name not in FREE
        flattened |= flat(value, f"{before}{name}.") if nested else {before + name: value}
    return flattened


def differences(there: Identity, now: Identity) -> str:
    """Describe what differs, in a few words."""
    names = [name for name in {**now, **there} if there.get(name) != now.get(name)]
    found = [difference(name, there.get(name), now.get(name)) for name in names[:MOST_SAID]]
    return ", ".join(found) + (f" and {len(names) - MOST_SAID} more" if len(names) > MOST_SAID else "")


def difference(name: str, there: object, now: object) -> str:
    """Return `precision fp32 there, bf16 now`; only the name if the value is long and not a path."""
    if max(len(str(there)), len(str(now))) > SHORT and os.sep not in str(now):
        return f"another {name}"
    return f"{name} {there} there, {now} now"


def digest(identity: Identity) -> str:
    """Return twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def digest_of_list(rows: Iterable[tuple[object, ...]]) -> str:
    """Return twelve hexadecimal digits for the listed inputs, in order."""
    whole = hashlib.sha256()
    for row in rows:
        whole.update(repr(row).encode("utf-8", "surrogatepass") + b"\n")
    return whole.hexdigest()[:12]
