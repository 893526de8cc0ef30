"""Where results go: named run folders, and the small files in each."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import yaml

from hybridvideo.config.training import TrainRun
from hybridvideo.documents import LARGEST_YAML, read_text, read_yaml
from hybridvideo.errors import UserError
from hybridvideo.files import write_text, writing
from hybridvideo.parsing import parsed, plain

CONFIG, ENVIRONMENT = "config.yaml", "environment.json"


def new_run_folder(out: str | None, name: str) -> Path:
    """Create and return `out`, which must not hold a run, or runs/NAME, with a number appended if it exists."""
    if out is not None:
        if (Path(out) / CONFIG).exists():
            raise UserError(f"{out} already holds a run; add --resume to continue it, or give another --out")
        return Path(out)
    for number in itertools.count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        with writing(folder), contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)  # a run that starts at the same moment takes the next number
            return folder
    raise AssertionError("the numbers do not end")


def run_to_resume(out: str | None, name: str) -> Path:
    """Return `out`, or the newest of runs/NAME, runs/NAME-2, ...; one without a checkpoint yet counts too."""
    candidates = [Path(out)] if out else [path for path in Path("runs").glob(f"{name}*") if is_numbered(path, name)]
    saved = [path for path in candidates if (path / CONFIG).is_file()]
    if not saved:
        where = out or f"runs/{name}"
        raise UserError(f"nothing to resume in {where}: no run there; start without --resume")
    return max(saved, key=lambda path: (path / CONFIG).stat().st_mtime)


def is_numbered(path: Path, name: str) -> bool:
    """Return whether a folder is NAME or NAME-number."""
    rest = path.name.removeprefix(name)
    return rest == "" or rest.removeprefix("-").isdigit()


def read_run_config(folder: Path) -> TrainRun | None:
    """Return the settings a run was made with; None for a bare checkpoint."""
    path = folder / CONFIG
    if not path.exists():
        return None
    return parsed(TrainRun, read_yaml(path, "the run is damaged; start a new one"), str(path))


def config_text(folder: str | Path) -> str | None:
    """Return the text of a run's config file, for a page."""
    path = Path(folder) / CONFIG
    return read_text(path, "fix it, or remove it", LARGEST_YAML) if path.exists() else None


def write_run_config(folder: Path, run: TrainRun) -> None:
    """Write the resolved settings."""
    write_text(folder / CONFIG, yaml.safe_dump(plain(run), sort_keys=False, allow_unicode=True))
