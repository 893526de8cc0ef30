"""Files that say hostile things, and the places where files are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors.torch import save_file

from hybridvideo import cli
from hybridvideo.data import synthetic
from hybridvideo.engine.training.checkpoint import load_run
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.card import ModelCard, write_checkpoint
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import plain
from hybridvideo.tasks.support.run_folder import read_run_config
from tests.engine.training.runs import TINY_MODEL, settings

CLASS = {"class_path": "canary.Canary", "init_args": {"command": "touch owned"}}


@dataclass(frozen=True)
class Place:
    """A file that something reads. attempt: what reads it; gives an exit code or raises UserError."""

    file: Path
    attempt: Callable[[], int]
    content: Any = None
    """What it holds where nothing is wrong."""
    write: Callable[[Path, bytes], object] = Path.write_bytes


def tiny() -> VideoModel:
    return create_model("hybrid", 2, frames=4, height=16, width=16, **TINY_MODEL["changes"])


def checkpoint(folder: Path) -> Path:
    """A checkpoint of the smallest model."""
    folder.mkdir(parents=True)
    model = tiny()
    write_checkpoint(folder, model.state_dict(), ModelCard("hybrid", ("a", "b"), model.settings()))
    return folder


def videos(folder: Path) -> Path:
    """Class folders with one file each, which nothing can decode."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.mp4").write_bytes(b"0")
    return folder


def command(*arguments: object) -> Callable[[], int]:
    return lambda: cli.main([str(argument) for argument in arguments])


def quarantine_table(file: Path, metadata: bytes) -> None:
    """A scan's table without rows, whose metadata say this."""
    text = pa.array([], pa.string())
    columns = {name: text for name in ("path", "status", "reason", "checksum")}
    columns |= {name: pa.array([], pa.int64()) for name in ("bytes", "mtime_ns")}
    pq.write_table(pa.table(columns).replace_schema_metadata({"hybridvideo": metadata}), file)


def place(name: str, folder: Path) -> Place:
    """A place by name, made in a folder."""
    listed, model = videos(folder / "videos"), checkpoint(folder / "model")
    out = folder / "out"
    tune = ("train", "--data.train", listed, "--train.trackers", "[]", "--device", "cpu", "--out", out)
    config = plain(settings(folder / "videos", data={"train": str(listed), "val": ""}))
    if name in ("card", "card evaluated", "card extracted"):
        verb = {"card": "predict", "card evaluated": "evaluate", "card extracted": "extract"}[name]
        given = ("--data.manifest", listed) if verb == "evaluate" else (listed,)
        card = model / "model.json"
        return Place(card, command(verb, model, *given, "--out", out, "--device", "cpu"), json.loads(card.read_text()))
    if name == "config":
        return Place(folder / "c.yaml", command(*tune, "--config", folder / "c.yaml"), config)
    if name in ("run resumed", "run predicted"):
        run = folder / "run"
        checkpoint(run / "checkpoints" / "last")
        predict = command("predict", run, listed, "--device", "cpu", "--workers", 0)
        resume = lambda: read_run_config(run) is None  # noqa: E731
        return Place(run / "config.yaml", resume if name == "run resumed" else predict, config)
    if name == "quarantine":
        table = folder / "scan.parquet"
        attempt = command("predict", model, listed, "--out", out / "x.csv", "--quarantine", table, "--device", "cpu")
        return Place(table, attempt, {"root": str(folder)}, quarantine_table)
    if name in ("labels", "order"):
        file = folder / "names.json"
        return Place(file, command(*tune, f"--data.{name}", file), {"a": 0, "b": 1})
    if name in ("hugging face", "processor", "shards"):
        return hugging_face(name, folder)
    if name in ("recipe", "ledger"):
        file = folder / "copies" / ".prepare" / {"recipe": "recipe.json", "ledger": "done.jsonl"}[name]
        file.parent.mkdir(parents=True)
        return Place(file, command("prepare", listed, "--out", folder / "copies", "--workers", 0))
    if name == "data set":
        counts = {"train": 1, "val": 1, "test": 1, "seed": 0}
        (folder / "set").mkdir()
        render = lambda: synthetic.render_dataset(folder / "set", **counts, workers=0) or 0  # noqa: E731
        return Place(folder / "set" / "dataset.json", render, counts)
    assert name == "state", name
    return Place(model / "state.json", lambda: len(load_run(model, tiny(), None)), {"epoch": 1})


def hugging_face(name: str, folder: Path) -> Place:
    """A folder of Hugging Face; its weights are of no known layout."""
    hub = folder / "hub"
    hub.mkdir()
    files = {
        "hugging face": "config.json",
        "processor": "preprocessor_config.json",
        "shards": "model.safetensors.index.json",
    }
    (hub / "config.json").write_text("{}")
    if name != "shards":
        save_file(tiny().state_dict(), hub / "model.safetensors")
    return Place(hub / files[name], command("convert", hub, folder / "out"), {"image_size": 16})


def refusal(attempt: Callable[[], int], capsys: Any) -> str:
    """The one line that an attempt ends in, which must be the user's to fix."""
    try:
        code = attempt()
    except UserError as error:
        text = str(error)
    else:
        text = capsys.readouterr().err.removeprefix("error: ").removesuffix("\n")
        assert code == 2, (code, text)
    assert text and len(text) < 1500 and text.isprintable(), text
    return text


def leaves(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a document, mappings and lists too."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*way, key))


def with_value(document: Any, way: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value there."""
    if not way:
        return value
    whole = dict(document) if isinstance(document, dict) else list(document)
    whole[way[0]] = with_value(whole[way[0]], way[1:], value)
    return whole


def written(place: Place, content: Any) -> None:
    """The content as the place's file, YAML or JSON."""
    text = yaml.safe_dump(content) if place.file.suffix == ".yaml" else json.dumps(content)
    place.write(place.file, text.encode())


def no_file(kind: str, file: Path) -> None:
    """What is no ordinary file, or a vast one, in a file's place."""
    file.unlink(missing_ok=True)
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        with file.open("wb") as sparse:
            sparse.truncate(2**30)
