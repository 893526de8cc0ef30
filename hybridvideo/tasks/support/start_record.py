"""What a run was started with, kept apart from the config that people may edit: settings and working folder.

`--resume RUN` works from any folder: a relative path that does not exist here is looked up where the run was started.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybridvideo.config.training import TrainRun
from hybridvideo.documents import read_json
from hybridvideo.files import write_json
from hybridvideo.parsing import parsed, plain
from hybridvideo.tasks.support.run_folder import read_run_config

STARTED = "started.json"
PATHS = {
    "data": ("train", "val", "root", "labels", "quarantine", "cache"),
    "model": ("weights",),
}  # settings that are, or may be, files and folders


@dataclass(frozen=True)
class Started:
    """`folder`: the working folder in which the run was last started."""

    folder: str
    run: TrainRun


def write_started(folder: Path, run: TrainRun) -> None:
    """Write the record into the run's folder."""
    write_json(folder / STARTED, {"folder": os.getcwd(), "run": plain(run)})


def read_started(folder: Path) -> Started:
    """Read the record of a run folder, or its config if there is no record. Raise UserError if it is damaged."""
    path = folder / STARTED
    if not path.is_file():  # stopped before it was written, or made by a version that did not
        return Started(os.getcwd(), read_run_config(folder) or TrainRun())
    return parsed(Started, read_json(path, "remove it to go by config.yaml alone"), str(path))


def with_found_paths(run: TrainRun, folder: Path) -> TrainRun:
    """Return the settings; relative paths that do not exist here are resolved from where the run was started."""
    started = read_started(folder)
    sections = {}
    for name, keys in PATHS.items():
        section = getattr(run, name)
        moved = {key: there for key in keys if (there := moved_path(getattr(section, key), started.folder))}
        sections[name] = replace(section, **moved)
    return replace(run, **sections)


def moved_path(path: str | dict[str, str] | None, folder: str) -> str | dict[str, str] | None:
    """Return the path below `folder`, if it exists there and not here; of several, all, if that holds for one."""
    if isinstance(path, dict):
        moved = {name: moved_path(each, folder) for name, each in path.items()}
        return {name: str(there or path[name]) for name, there in moved.items()} if any(moved.values()) else None
    if not path or os.path.exists(path) or not os.path.exists(there := os.path.join(folder, path)):
        return None
    return there


def same_setting(place: tuple[str, ...], old: Any, new: Any, folder: str) -> bool:
    """Return whether a setting is unchanged; a path may be written differently. `folder`: that of the old one."""
    if old == new or place[-1] not in PATHS.get(place[0], ()) or not (old and new):
        return bool(old == new)
    if isinstance(old, dict) or isinstance(new, dict):
        both = isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys()
        return both and all(same_setting(place, old[name], new[name], folder) for name in old)
    return os.path.abspath(os.path.join(folder, old)) == os.path.abspath(new)
