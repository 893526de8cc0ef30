"""`hybridvideo models`: what can be built, how large it is, what it costs, what was published of it.

A pattern of one model gives its card, any other a table. Nothing is computed but shapes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby

import torch
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hybridvideo.errors import UserError, nearest
from hybridvideo.models import MODELS, create_model, list_models
from hybridvideo.models.contract import VideoModel, count_gmacs, count_parameters
from hybridvideo.models.variants import Published

WIDTH = 120  # where the output is no terminal

LEGEND = """\

M: million parameters, with 400 classes. GMACs: billions of multiply-adds of one view, which papers call GFLOPs.
top-1: per cent on the validation set of Kinetics-400, as published; scores averaged over views (clips x crops) of a
video, whose frames lie a step apart. weights: hf: and torchvision: are downloaded by load_weights, others by you.
A single name shows stages, settings and sources. hybrid: any stem, stages and head of your own, see the README."""


def models(pattern: str) -> int:
    """The command. UserError where no model matches."""
    names = list_models(pattern)
    if not names:
        raise UserError(f"no model matches {pattern!r}{nearest(pattern, MODELS)}; `hybridvideo models` lists all")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if len(names) == 1:
        print_card(console, names[0])
    else:
        console.print(table_of(names))
        console.print(Text(LEGEND))
    return 0


def build(name: str) -> VideoModel:
    """The model with no memory behind its tensors."""
    with torch.device("meta"):
        return create_model(name, num_classes=400)


def published(name: str) -> Published | None:
    """What was published of a model's weights."""
    return getattr(MODELS[name], "published", None)


# --- the table ------------------------------------------------------------------------------------------------------


def table_of(names: list[str]) -> Table:
    """One row a model, families apart."""
    table = Table("model", box=None, padding=(0, 1, 0, 0))
    for title in ("M", "GMACs", "input", "top-1", "views", "step"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("weights", overflow="fold")
    for i, rows in enumerate(families(names)):
        if i:
            table.add_row()
        for row in rows:
            table.add_row(*row)
    return table


def families(names: list[str]) -> Iterator[list[list[str]]]:
    """Rows of the models of one file; `hybrid`, which is what a user makes of it, has none."""
    built = ((name, build(name)) for name in names if name != "hybrid")
    for _, family in groupby(built, key=lambda item: type(item[1]).__module__):
        yield [row_of(name, model) for name, model in family]


def row_of(name: str, model: VideoModel) -> list[str]:
    """The cells of a model."""
    _, frames, height, width = model.input_shape
    size = [f"{count_parameters(model) / 1e6:.2f}", f"{count_gmacs(model):.2f}", f"{frames}x{height}x{width}"]
    known = published(name)
    if known is None:
        return [name, *size, "-", "-", "-", "-"]
    views = f"{known.views.clips}x{known.views.crops}"
    return [name, *size, f"{known.top1:.1f}", views, step_of(known), escape(short(known.weights))]


def step_of(known: Published) -> str:
    """Frames, or seconds, between the frames of a view."""
    clip = known.clip
    return str(clip.stride) if clip.stride else f"{clip.interval:.3f} s"


def short(weights: str) -> str:
    """A long address as its site and file; the card has all of it."""
    if not weights.startswith("https://"):
        return weights
    host, *_, file = weights.removeprefix("https://").split("/")
    return f"{'.'.join(host.split('.')[-2:])}/.../{file}"


# --- the card -------------------------------------------------------------------------------------------------------


def print_card(console: Console, name: str) -> None:
    """All that is known of one model."""
    model = build(name)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for title, text in [*size_rows(name, model), *published_rows(published(name))]:
        table.add_row(title, Text(text))
    console.print(table)
    console.print("\n[bold]settings[/] (changes of create_model, --model.changes)")
    console.print(Text(yaml.safe_dump(model.settings(), sort_keys=False, default_flow_style=None, width=WIDTH - 4)))


def size_rows(name: str, model: VideoModel) -> Iterator[tuple[str, str]]:
    """What the network is."""
    _, frames, height, width = model.input_shape
    mean, std = (", ".join(f"{value:g}" for value in values) for values in vars(model.normalisation).values())
    yield "model", name
    yield "input", f"{frames} frames of {height}x{width}, RGB in [0, 1] normalised with mean {mean}; std {std}"
    yield "parameters", f"{count_parameters(model) / 1e6:.2f} million, with {model.num_classes} classes"
    yield "cost", f"{count_gmacs(model):.2f} GMACs a view"
    yield "stages", ", ".join(model.stage_names)
    yield "features", f"{model.num_features} channels before the classifier"


def published_rows(known: Published | None) -> Iterator[tuple[str, str]]:
    """What its authors say."""
    if known is None:
        yield "weights", "none published; train it"
        return
    crop = f", short side {known.short_side}" if known.short_side else ""
    yield "paper", known.paper
    yield "top-1", f"{known.top1:g} % on Kinetics-400: {known.protocol()}{crop}, {known.views.average} averaged"
    yield "pretraining", known.pretrained
    yield "weights", known.weights
