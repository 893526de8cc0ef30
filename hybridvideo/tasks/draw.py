"""`hybridvideo models NAME --draw`: a drawing of a model, as an SVG file and a page.

The model is built on `meta`: neither time nor memory is spent on weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from hybridvideo.config.model import ModelConfig
from hybridvideo.documents import read_yaml
from hybridvideo.errors import UserError, nearest
from hybridvideo.files import write_text
from hybridvideo.models import MODELS, create_model
from hybridvideo.models.checks import NumbersOnCpu
from hybridvideo.parsing import merged, parsed, plain
from hybridvideo.report.pages.model_page import model_page
from hybridvideo.report.plots.network import network_svg, standalone
from hybridvideo.tasks.support.anatomy import network_of
from hybridvideo.text import shown


def run_draw(pattern: str, out: str, config: str | None, changes: Mapping[str, Any]) -> int:
    """Run the command: draw each model that matches, or the one of a config file."""
    console = Console(highlight=False, soft_wrap=True)
    for name, wanted in chosen(pattern, config, changes).items():
        svg, page = draw(name, wanted, Path(out))
        console.print(shown(f"wrote {svg} and {page}"), markup=False)
    return 0


def chosen(pattern: str, config: str | None, changes: Mapping[str, Any]) -> dict[str, ModelConfig]:
    """Return what to draw, by the names of the files. Raises UserError for no model, or for too many to change."""
    if config is not None:
        if pattern != "*":
            raise UserError(f"{pattern} and --config {config} each name a model; give one of them")
        return {Path(config).stem: with_changes(model_in(config), changes)}
    names = [name for name in MODELS if fnmatch(name, pattern)]
    if not names:
        raise UserError(f"no model matches {pattern!r}{nearest(pattern, MODELS)}; `hybridvideo models` lists all")
    if changes and len(names) > 1:
        raise UserError(f"{pattern!r} matches {len(names)} models, and changes are those of one; give its name")
    return {name: with_changes(ModelConfig(name), changes) for name in names}


def model_in(path: str) -> ModelConfig:
    """Return the model of a config file: its section `model`."""
    settings = read_yaml(path, "give a YAML file such as those in configs/")
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
        raise UserError(f"{path} has no section model; give a file such as those in configs/")
    return parsed(ModelConfig, settings["model"], path)


def with_changes(model: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """Return the same model with further changes."""
    return ModelConfig(model.name, merged(model.changes, changes))


def draw(name: str, wanted: ModelConfig, out: Path) -> tuple[Path, Path]:
    """Write NAME.svg and NAME.html into a folder, which is created; return their paths."""
    with torch.device("meta"), NumbersOnCpu():
        model = create_model(wanted.name, **without_files(wanted.changes))
    network = network_of(shown(name), model)
    svg = out / f"{name}.svg"
    write_text(svg, standalone(network_svg(network)))
    settings = plain(model.settings())
    about = {"model": wanted.name, "class": type(model).__name__, "features": str(model.num_features)}
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=116)
    return svg, model_page(out / f"{name}.html", network, about, text)


def without_files(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes without weights of stems, those of towers included, which a drawing does not need."""
    nested = {name: without_files(value) for name, value in changes.items() if isinstance(value, Mapping)}
    if "stem" in nested:
        nested["stem"]["weights"] = None
    return {**changes, **nested}
