"""`hybridvideo models`: what can be built, how large it is, and what it costs."""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.table import Table

from hybridvideo.errors import UserError
from hybridvideo.models import create_model, list_models
from hybridvideo.models.contract import count_gmacs, count_parameters


def models(pattern: str) -> int:
    """The command; nothing is computed but shapes, so the largest model is counted in a moment."""
    names = [name for name in list_models(pattern) if name != "hybrid"]  # `hybrid` is what a user makes of it
    if not names:
        raise UserError(f"no model matches {pattern!r}; `hybridvideo models` lists all")
    table = Table("model", "parameters (M)", "GMACs per view", "input (C, T, H, W)", "stages")
    for name in names:
        with torch.device("meta"):
            model = create_model(name, num_classes=400)
        table.add_row(
            name, f"{count_parameters(model) / 1e6:.2f}", f"{count_gmacs(model):.2f}",
            " x ".join(map(str, model.input_shape)), ", ".join(model.stage_names),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print("Parameters with 400 classes. GMACs: billions of multiply-adds of one view, which papers call GFLOPs.")
    print("hybrid: any stem, stages and head of your own, see the README.")
    return 0
