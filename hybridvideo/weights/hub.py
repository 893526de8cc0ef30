"""Weights that torchvision and huggingface_hub download, with what those say of them.

Both keep what they have downloaded; offline the copy is used, and where there is none the message says what to do.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import torch

from hybridvideo.config.data import ClipConfig, Normalisation
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import EnvironmentFault, UserError, nearest
from hybridvideo.text import one_line
from hybridvideo.weights.open_source import HF_CONFIG, HUGGING_FACE, TORCHVISION, Facts, Source, open_folder

# Configuration and tensors. Nothing else of a repository is fetched, so there is no code to run.
HF_ABOUT = [HF_CONFIG, "preprocessor_config.json", "video_preprocessor_config.json"]
HF_TENSORS = (["*.safetensors", "*.safetensors.index.json"], ["pytorch_model*.bin", "pytorch_model.bin.index.json"])


def open_torchvision(source: str) -> Source:
    """Weights by the name of their model, such as `torchvision:swin3d_t` or `torchvision:swin3d_b.KINETICS400_V1`.

    Raises:
        UserError: torchvision has no such model or weights.
        EnvironmentFault: they cannot be downloaded.
    """
    weights = torchvision_weights(source.removeprefix(TORCHVISION))
    try:
        state = torch.hub.load_state_dict_from_url(
            weights.url, map_location="cpu", progress=True, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: a hash that does not fit
        unreachable(source, weights.url, error)
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    return Source(source, dict(state), (), (file,) if file.is_file() else (), torchvision_facts(weights))


def torchvision_weights(name: str) -> Any:
    """torchvision's record of some weights. `NAME.WEIGHTS` or `NAME`, whose best are then meant."""
    from torchvision import models

    model, _, which = name.partition(".")
    known = models.list_models()
    if model not in known:
        raise UserError(f"torchvision has no model {model!r}{nearest(model, known)}; such as torchvision:swin3d_t")
    offered = models.get_model_weights(model)
    names = [weights.name for weights in offered]
    if which and which not in [*names, "DEFAULT"]:
        raise UserError(f"torchvision has no weights {which!r} of {model}{nearest(which, names)}; {', '.join(names)}")
    return offered[which or "DEFAULT"]


def torchvision_facts(weights: Any) -> Facts:
    """Classes, normalisation, size; of videos also time between frames and clips, which stand in a sentence."""
    how = weights.transforms()
    text = weights.meta.get("_docs", "")
    said = {name: float(value) for name, value in re.findall(r"`(\w+)=([\d.]+)`", text)}
    size = [*how.crop_size] * 2
    clip = views = None
    if "frame_rate" in said:
        clip = ClipConfig(frames=int(said.get("clip_len", 16)), interval=1 / said["frame_rate"])
        views = EvalConfig(clips=int(said.get("clips_per_video", 1)), crops=1)
    return Facts(
        labels=tuple(weights.meta["categories"]) if "categories" in weights.meta else None,
        normalisation=Normalisation(tuple(how.mean), tuple(how.std)),
        clip=clip,
        views=views,
        size=(size[0], size[1]),
        short_side=min(how.resize_size),
        changes={"frames": clip.frames} if clip else {},
    )


def open_hugging_face(source: str) -> Source:
    """Weights of a repository, `hf:OWNER/REPO` or `hf:OWNER/REPO@REVISION`; its configuration and tensors only.

    Raises:
        UserError: no such repository, or no weights in it.
        EnvironmentFault: it cannot be downloaded.
    """
    repo, _, revision = source.removeprefix(HUGGING_FACE).partition("@")
    folder = next((found for patterns in HF_TENSORS if has_weights(found := snapshot(repo, revision, patterns))), None)
    if folder is None:
        raise UserError(f"{source} has no weights that can be read: no {HF_CONFIG} with .safetensors or .bin beside it")
    opened = open_folder(folder)
    return Source(source, opened.state, opened.notes, opened.files, opened.facts)


def has_weights(folder: Path) -> bool:
    """Whether a snapshot holds a configuration and tensors."""
    return (folder / HF_CONFIG).is_file() and any(
        path.suffix in (".safetensors", ".bin") for path in folder.iterdir() if path.is_file()
    )


def snapshot(repo: str, revision: str, patterns: list[str]) -> Path:
    """The files of a repository that match, downloaded or as kept from before."""
    from huggingface_hub import errors, snapshot_download

    source = f"{HUGGING_FACE}{repo}{'@' * bool(revision)}{revision}"
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=[*HF_ABOUT, *patterns]))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"{source}: no such repository, or it is not public ({one_line(error)[:100]})") from error
    except Exception as error:  # of the client, and of the network library under it
        unreachable(source, f"https://huggingface.co/{repo}", error)


def unreachable(source: str, address: str, error: Exception) -> NoReturn:
    """EnvironmentFault for what cannot be downloaded: what to do instead."""
    raise EnvironmentFault(
        f"{source} cannot be downloaded ({type(error).__name__}: {one_line(error)[:100]}); on a machine with network "
        f"download {address}, copy it here, and give its path in place of {source}"
    ) from error
