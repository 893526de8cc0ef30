"""Size, cost and settings of every model, for `hybridvideo models`: `python tools/model_table.py` rewrites the table.

Building all models takes a quarter of a minute, reading the table no time. A test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import hybridvideo
from hybridvideo.models import MODELS, create_model, list_models
from hybridvideo.models.contract import count_gmacs, count_parameters
from hybridvideo.models.variants import Published
from hybridvideo.parsing import plain

TABLE = Path(hybridvideo.__file__).parent / "tasks" / "models.json"


def facts_of(name: str) -> dict[str, Any]:
    """Compute a model's entry from the model itself, on `meta`."""
    with torch.device("meta"):
        model = create_model(name, num_classes=400)
    return {
        "family": type(model).__module__.rpartition(".")[2],
        "parameters": count_parameters(model),
        "gmacs": round(count_gmacs(model), 4),
        "input": list(model.input_shape[1:]),
        "normalisation": plain(model.normalisation),
        "stages": list(model.stage_names),
        "features": model.num_features,
        "settings": plain(model.settings()),
        "published": published(name),
    }


def published(name: str) -> dict[str, Any] | None:
    """Return the published figure of a model as plain data."""
    known: Published | None = getattr(MODELS[name], "published", None)
    if known is None:
        return None
    clip, views = known.clip, known.views
    return {
        "top1": known.top1,
        "views": [views.clips, views.crops],
        "average": views.average,
        "stride": clip.stride,
        "interval": clip.interval,
        "short_side": known.short_side,
        "paper": known.paper,
        "pretrained": known.pretrained,
        "weights": known.weights,
        "protocol": known.protocol(),
    }


def table_text(facts: dict[str, dict[str, Any]]) -> str:
    """Format the table, a line for each model."""
    lines = (f"{json.dumps(name)}: {json.dumps(of_one, ensure_ascii=False)}" for name, of_one in facts.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    TABLE.write_text(table_text({name: facts_of(name) for name in list_models()}), encoding="utf-8")
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
