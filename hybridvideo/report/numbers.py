"""Numbers and settings as short text; what is not known is a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard


def known(value: float | None) -> TypeGuard[float]:
    """Return whether there is a number: an accuracy over no videos is None or NaN."""
    return value is not None and not math.isnan(value)


def percent(share: float | None, digits: int = 1) -> str:
    """Format `0.975` as `97.5 %` with a non-breaking space, and an unknown share as a dash."""
    return f"{100 * share:.{digits}f}\u00a0%" if known(share) else "–"


def interval(bounds: Sequence[float] | None) -> str:
    """Format `[0.9, 0.99]` as `90.0 to 99.0 %`."""
    if bounds is None or not all(known(bound) for bound in bounds):
        return "–"
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f}\u00a0%"


def readable(value: object) -> str:
    """Format any value of a config or a summary in few characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        return f"{value:.4g}" if abs(value) < 9_999.5 else f"{value:,.0f}".replace(",", " ")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {readable(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(readable(item) for item in value)
    return str(value)
