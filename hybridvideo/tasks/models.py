"""`hybridvideo models`: what can be built: sizes, costs and published figures.

A pattern that matches one model prints its card, any other a table. Everything is read from models.json, which
tools/model_table.py writes from the models themselves: building all of them would take 15 seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybridvideo.config.model import StageConfig
from hybridvideo.errors import UserError, nearest
from hybridvideo.parsing import plain

Facts = Mapping[str, Any]  # of one model; the keys are those of tools/model_table.py

ALWAYS_SHOWN = ("block", "depth")  # of a stage
WIDTH = 120  # if the output is not a terminal

LEGEND = """\

M: million parameters, with 400 classes. GMACs: billions of multiply-adds of one view, which papers call GFLOPs.
clips/s: of one clip at a time, forward, fp32, where and when the last line says.
top-1: per cent on the validation set of Kinetics-400, as published; scores averaged over views (clips x crops) of a
video, whose frames lie a step apart. weights: hf: and torchvision: are downloaded by load_weights, others by you.
A single name shows stages, settings and sources; --draw draws the model. hybrid: any stem, stages and head of your
own, see docs/models.md."""


def run_models(pattern: str) -> int:
    """Run the command. Raise UserError if no model matches."""
    known = all_facts()
    chosen = {name: facts for name, facts in known.items() if fnmatch(name, pattern)}
    if not chosen:
        raise UserError(f"no model matches {pattern!r}{nearest(pattern, known)}; `hybridvideo models` lists all")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if len(chosen) == 1:
        print_card(console, *chosen.popitem())
    else:
        console.print(table_of(chosen))
        console.print(Text(f"{LEGEND}\nclips/s measured on {all_speeds()['where']}."))
    return 0


def all_facts() -> dict[str, Facts]:
    """Return the facts of every model by name, in the order of the registry."""
    table: dict[str, Facts] = json.loads((files("hybridvideo") / "tasks" / "models.json").read_text(encoding="utf-8"))
    return table


@cache
def all_speeds() -> Facts:
    """Return clips per second by model, and where they were measured; tools/bench_families.py writes them."""
    table: dict[str, Any] = json.loads((files("hybridvideo") / "tasks" / "model_speeds.json").read_text("utf-8"))
    return table


# --- the table ------------------------------------------------------------------------------------------------------


def table_of(chosen: Mapping[str, Facts]) -> Table:
    """Return one row per model, families apart; `hybrid` has none: its size is up to the user."""
    table = Table("model", box=None, padding=(0, 1, 0, 0))
    for title in ("M", "GMACs", "clips/s", "input", "top-1", "views", "step"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("weights", overflow="fold")
    rows = [(name, facts) for name, facts in chosen.items() if name != "hybrid"]
    for i, (_, family) in enumerate(groupby(rows, key=lambda row: row[1]["family"])):
        if i:
            table.add_row()
        for name, facts in family:
            table.add_row(*map(Text, row_of(name, facts)))
    return table


def row_of(name: str, facts: Facts) -> list[str]:
    """Return the cells of a model."""
    speed = all_speeds()["clips_per_second"].get(name)
    size = [f"{facts['parameters'] / 1e6:.2f}", f"{facts['gmacs']:.2f}", "-" if speed is None else f"{speed:.3g}"]
    size.append("x".join(map(str, facts["input"])))
    known = facts["published"]
    if known is None:
        return [name, *size, "-", "-", "-", "-"]
    clips, crops = known["views"]
    return [name, *size, f"{known['top1']:.1f}", f"{clips}x{crops}", step_of(known), short(known["weights"])]


def step_of(known: Facts) -> str:
    """Return the step between the frames of a view, in frames or seconds."""
    return str(known["stride"]) if known["stride"] else f"{known['interval']:.3f} s"


def short(weights: str) -> str:
    """Shorten a long address to site and file; the card shows all of it."""
    if not weights.startswith("https://"):
        return weights
    host, *_, file = weights.removeprefix("https://").split("/")
    return f"{'.'.join(host.split('.')[-2:])}/.../{file}"


# --- the card -------------------------------------------------------------------------------------------------------


def print_card(console: Console, name: str, facts: Facts) -> None:
    """Print everything known about one model."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for title, text in [*size_rows(name, facts), *published_rows(facts["published"])]:
        table.add_row(title, Text(text))
    console.print(table)
    console.print(
        "\n[bold]settings[/] (changes of create_model, --model.changes of train; of stages, what is not default)"
    )
    settings = with_short_stages(facts["settings"])
    console.print(Text(yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=WIDTH - 4)))


def with_short_stages(settings: Facts) -> Facts:
    """Leave out of every stage what is at its default: most settings have a meaning for a few kinds of blocks."""
    default, shorter = plain(StageConfig()), dict(settings)
    for key, value in settings.items():
        if isinstance(value, dict):
            shorter[key] = with_short_stages(value)
        elif key == "stages" and value and isinstance(value[0], dict):
            shorter[key] = [
                {name: stage[name] for name in stage if name in ALWAYS_SHOWN or stage[name] != default.get(name)}
                for stage in value
            ]
    return shorter


def size_rows(name: str, facts: Facts) -> Iterator[tuple[str, str]]:
    """Return the rows that describe the network."""
    frames, height, width = facts["input"]
    mean, std = (", ".join(f"{value:g}" for value in facts["normalisation"][key]) for key in ("mean", "std"))
    yield "model", name
    yield "input", f"{frames} frames of {height}x{width}, RGB in [0, 1] normalised with mean {mean}; std {std}"
    yield "parameters", f"{facts['parameters'] / 1e6:.2f} million, with 400 classes"
    yield "cost", f"{facts['gmacs']:.2f} GMACs per view"
    if (speed := all_speeds()["clips_per_second"].get(name)) is not None:
        yield "speed", f"{speed:.3g} clips per second, forward, fp32 ({all_speeds()['where']})"
    yield "stages", ", ".join(facts["stages"])
    yield "features", f"{facts['features']} channels before the classifier"


def published_rows(known: Facts | None) -> Iterator[tuple[str, str]]:
    """Return the rows with the authors' figures."""
    if known is None:
        yield "weights", "none published; train it"
        return
    crop = f", short side {known['short_side']}" if known["short_side"] else ""
    yield "paper", known["paper"]
    yield "top-1", f"{known['top1']:g} % on Kinetics-400: {known['protocol']}{crop}, {known['average']} averaged"
    yield "pretraining", known["pretrained"]
    yield "weights", known["weights"]
