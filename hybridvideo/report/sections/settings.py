"""How a result was made: protocol, environment, resolved config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybridvideo.report.markup import Html, box, columns, facts, folded, preformatted


@dataclass(frozen=True)
class MadeWith:
    """What a result was made with; None is left off the page."""

    environment: Mapping[str, str] | None = None
    """Versions and hardware, as in environment.json."""
    config: str | None = None
    """Text of the resolved config."""


UNSTATED = MadeWith()


def setting_blocks(made_with: MadeWith, protocol: Mapping[str, object] | None = None) -> tuple[Html, ...]:
    """Show how the result was measured, what it ran on, and the resolved config (folded)."""
    titled = (("Protocol", protocol), ("Environment", made_with.environment))
    boxes = [box(facts(pairs), title=title) for title, pairs in titled if pairs]
    blocks = [columns(*boxes)] if len(boxes) > 1 else boxes
    if made_with.config:
        blocks.append(folded("Resolved config", preformatted(made_with.config)))
    return tuple(blocks)
