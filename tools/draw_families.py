"""One picture of all families for docs/families.md: `python tools/draw_families.py` rewrites docs/images/families.svg.

The smallest model of each family is built on `meta` and drawn. A test says when a family is missing.
"""

from __future__ import annotations

from pathlib import Path

import torch

from hybridvideo.models import create_model
from hybridvideo.models.families import FAMILIES
from hybridvideo.report.plots.families import families_svg
from hybridvideo.report.plots.network import Network, standalone
from hybridvideo.tasks.support.anatomy import network_of

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "families.svg"


def smallest() -> list[str]:
    """Return the name of the smallest model of each family: `tiny`, or if there is none `base`."""
    tiny = [name for name in FAMILIES if name.endswith("_tiny")]
    known = {name.removesuffix("_tiny") for name in tiny}
    alone = [name for name in FAMILIES if name.endswith("_base") and name.removesuffix("_base") not in known]
    return [*tiny, *alone]


def drawing_of(name: str) -> Network:
    """Return what is drawn of a model."""
    with torch.device("meta"):
        model = create_model(name)
    return network_of(name, model)


def main() -> None:
    PICTURE.write_text(standalone(families_svg([drawing_of(name) for name in smallest()])), encoding="utf-8")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
