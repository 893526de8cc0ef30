"""Weights in the form Hugging Face's libraries write: a folder, or a repository (`hf:OWNER/REPO[@REVISION]`).

Of a repository only the configuration and the tensors are downloaded, so there is no code to run. huggingface_hub keeps
what it has downloaded, so a machine without network access can use the copy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hybridvideo.documents import read_json
from hybridvideo.errors import UserError
from hybridvideo.models.card import CARD, WEIGHTS
from hybridvideo.models.state_files import open_state_file
from hybridvideo.text import one_line
from hybridvideo.weights.huggingface_config import CONFIG, PROCESSORS, facts_of
from hybridvideo.weights.source import Source, cannot_download

PREFIX = "hf:"
WEIGHT_FILES = (WEIGHTS, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Downloaded with the configuration, in order of preference.
TENSORS = (["*.safetensors", "*.safetensors.index.json"], ["pytorch_model*.bin", "pytorch_model.bin.index.json"])


# --- a folder ---------------------------------------------------------------------------------------------------------


def is_hugging_face(folder: Path) -> bool:
    """Return whether transformers or timm wrote a folder: it has their config.json and no card of this project."""
    return (folder / CONFIG).is_file() and not (folder / CARD).is_file()


def open_folder(folder: Path) -> Source:
    """Open the weights of a folder. UserError if there are none or its configuration is unusual."""
    files = weight_files(folder)
    opened = [open_state_file(file) for file in files]
    state = {name: tensor for part in opened for name, tensor in part.tensors.items()}
    return Source(str(folder), state, opened[0].notes, files, facts_of(folder))


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the file of weights, or its shards. UserError if there is none."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return shards(folder / name) if name.endswith(".index.json") else (folder / name,)
    raise UserError(f"{folder} has a {CONFIG} but no weights; expected {' or '.join(WEIGHT_FILES)}")


def shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names, looked for in its own folder only."""
    try:
        names = sorted(set(read_json(index, "download the folder again")["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is not an index of shards ({error}); download the folder again") from error
    return tuple(index.parent / Path(str(name)).name for name in names)


# --- a repository -----------------------------------------------------------------------------------------------------


def open_repository(source: str) -> Source:
    """Open the weights of `hf:OWNER/REPO` or `hf:OWNER/REPO@REVISION`.

    Raises:
        UserError: no such repository, or no weights in it.
        EnvironmentFault: it cannot be downloaded.
    """
    repo, _, revision = source.removeprefix(PREFIX).partition("@")
    snapshots = (download(source, repo, revision, patterns) for patterns in TENSORS)
    folder = next((found for found in snapshots if has_weights(found)), None)
    if folder is None:
        raise UserError(f"{source} has no weights that can be read: no {CONFIG} with .safetensors or .bin next to it")
    return replace(open_folder(folder), where=source)


def has_weights(folder: Path) -> bool:
    """Return whether a snapshot holds a configuration and tensors."""
    suffixes = {path.suffix for path in folder.iterdir() if path.is_file()}
    return (folder / CONFIG).is_file() and bool(suffixes & {".safetensors", ".bin"})


def download(source: str, repo: str, revision: str, patterns: list[str]) -> Path:
    """Download the matching files of a repository, or return the copy kept from before."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=[CONFIG, *PROCESSORS, *patterns]))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"{source}: no such repository, or it is not public ({one_line(error)[:100]})") from error
    except Exception as error:  # raised by the client and by the network library below it
        raise cannot_download(source, f"https://huggingface.co/{repo}", error) from error
