"""What is frozen is computed once: outputs of a model's frozen part, one file per video, in place of its clips.

Possible only where nothing random stands before that part but a choice among a few variants of a clip (flipped or not,
one of some contrasts): then each is computed. The files are named by what they were computed from (video,
preprocessing, frozen weights), so an interrupted computation continues, and runs may share a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from hybridvideo.config import AugmentConfig, ClipConfig
from hybridvideo.data.dataset import PADDING, ClipDataset
from hybridvideo.data.loader import EpochOrder, Reading, device_batches, normalise, train_loader
from hybridvideo.data.transforms import TrainTransform
from hybridvideo.engine.progress import progress
from hybridvideo.errors import VideoError
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import plain

LARGEST_IN_MEMORY = 4 * 2**30  # bytes of outputs kept in memory by one process


Variant = tuple[bool, float]  # flipped, contrast


def can_be_kept(clip: ClipConfig, augment: AugmentConfig) -> bool:
    """Whether a training clip is one of a few variants in every epoch."""
    one = augment.crop == "none" and augment.repeats == 1
    return clip.train_start != "random" and one and not (augment.mixup or augment.cutmix)


def variants_of(augment: AugmentConfig) -> list[Variant]:
    """What an augmentation chooses from."""
    flips = [flipped for flipped, share in ((False, 1 - augment.flip), (True, augment.flip)) if share > 0]
    return [(flipped, contrast) for flipped in flips for contrast in sorted(set(augment.contrast))]


class FrozenDataset(Dataset[dict[str, Any]]):
    """Items like those of `ClipDataset`, with `frozen`, the output of the frozen part, for `clip`."""

    def __init__(self, clips: ClipDataset, files: dict[Variant, list[Path]], failures: dict[int, VideoError]) -> None:
        self.clips, self.files, self.failures = clips, files, failures
        self.shape = self._shape()
        size = torch.Size(self.shape).numel() * 4 * len(clips) * len(files)
        self.memory: dict[tuple[Variant, int], dict[str, Any]] | None = {} if size <= LARGEST_IN_MEMORY else None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        variant = next(iter(self.files)) if index == PADDING else self.clips.variant(epoch, index)
        if self.memory is None:
            return self._item(variant, index)
        if (variant, index) not in self.memory:
            self.memory[variant, index] = self._item(variant, index)
        return self.memory[variant, index]

    def _item(self, variant: Variant, index: int) -> dict[str, Any]:
        if index == PADDING or index in self.failures:
            failure = self.failures.get(index)
            status, reason = (failure.status, failure.reason) if failure else ("padding", "")
            return self._labelled(index, torch.zeros(self.shape), False, status, reason)
        with safe_open(self.files[variant][index], "pt") as file:
            notes = file.metadata()
            return self._labelled(index, file.get_tensor("frozen"), True, notes["status"], notes["reason"])

    def _labelled(self, index: int, frozen: Tensor, ok: bool, status: str, reason: str) -> dict[str, Any]:
        label = -1 if index == PADDING else self.clips.manifest.rows[index].label
        return {"frozen": frozen, "label": label, "index": index, "ok": ok, "status": status, "reason": reason}

    def _shape(self) -> list[int]:
        readable = next(
            (file for i, file in enumerate(next(iter(self.files.values()))) if i not in self.failures), None
        )
        if readable is None:
            return [1]
        with safe_open(readable, "pt") as file:
            return list(file.get_slice("frozen").get_shape())


def frozen_loader(dataset: FrozenDataset, order: EpochOrder) -> DataLoader[dict[str, Any]]:
    """Batches of the outputs, read in this process."""
    return DataLoader(dataset, batch_sampler=order, collate_fn=default_collate)


def compute_frozen(
    model: VideoModel, clips: ClipDataset, folder: Path, accelerator: Accelerator, reading: Reading, batch_size: int
) -> FrozenDataset:
    """The outputs of the frozen part for every video, computed where they are not there yet, shared by processes."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Variant, list[Path]] = {}
    failures: dict[int, VideoError] = {}
    variants = variants_of(clips.transform.augment)
    for number, (flipped, contrast) in enumerate(variants, start=1):
        label = "frozen part" if len(variants) == 1 else f"frozen part, variant {number} of {len(variants)}"
        augment = replace(clips.transform.augment, flip=float(flipped), contrast=(contrast,))
        transform = TrainTransform(clips.transform.frame, augment)
        variant = ClipDataset(clips.manifest, clips.clip, transform, clips.seed, bad=clips.bad, index=clips.index,
                              quarantine=clips.quarantine)  # fmt: skip
        key = part_key(model, variant)
        names = [folder / f"{video_key(clips.manifest.file(i), key)}.safetensors" for i in range(len(clips))]
        failures |= compute_variant(model, variant, names, accelerator, reading, batch_size, label)
        files[flipped, contrast] = names
    return FrozenDataset(clips, files, failures)


def compute_variant(
    model: VideoModel, clips: ClipDataset, files: Sequence[Path], accelerator: Accelerator, reading: Reading, size: int,
    label: str,
) -> dict[int, VideoError]:  # fmt: skip
    """Each process computes its share of what is not there; gives the videos that no process could read."""
    # By index, not by what is missing: another process may be writing while this one looks.
    own = range(accelerator.process_index, len(files), accelerator.num_processes)
    share = [i for i in own if not files[i].exists()]
    failures: dict[int, VideoError] = {}
    with progress(label, len(share), accelerator.is_main_process) as advance:
        for batch in batches(clips, share, reading, size, accelerator.device) if share else []:
            failures |= store(model, batch, files)
            advance(len(batch["index"]))
    parts = gather_object([failures]) if accelerator.num_processes > 1 else [failures]
    return {i: error for part in parts for i, error in part.items()}


def batches(
    clips: ClipDataset, share: list[int], reading: Reading, batch_size: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """The chosen clips, in order, on the device."""
    chosen = [[(0, index) for index in share[i : i + batch_size]] for i in range(0, len(share), batch_size)]
    pin = device.type == "cuda"
    with train_loader(clips, chosen, workers=reading.workers, deadline=reading.deadline, pin_memory=pin) as loader:
        yield from device_batches(loader, device)


def store(model: VideoModel, batch: dict[str, Any], files: Sequence[Path]) -> dict[int, VideoError]:
    """Compute and write one batch; gives the videos that could not be read."""
    model.eval()
    with torch.inference_mode():
        clips_BCTHW = normalise(batch["clip"], model.normalisation, batch["contrast"])
        outputs = model.forward_frozen(clips_BCTHW).float().cpu()
    failures: dict[int, VideoError] = {}
    for output, index, ok, status, reason in zip(
        outputs, batch["index"].tolist(), batch["ok"].tolist(), batch["status"], batch["reason"], strict=True
    ):
        if ok:
            save_file({"frozen": output.clone()}, files[index], metadata={"status": status, "reason": reason})
        else:
            failures[index] = VideoError(status, reason)
    return failures


def part_key(model: VideoModel, clips: ClipDataset) -> str:
    """What the outputs depend on beside the video."""
    digest = hashlib.sha256()
    digest.update(json.dumps([model.frozen_settings(), plain(model.normalisation), plain(clips.clip)]).encode())
    digest.update(repr((clips.transform.frame, clips.transform.augment)).encode())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, value in model.state_dict().items():
        if name not in trained:
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def video_key(file: Path, part: str) -> str:
    """Name of a video's output; a changed file gets another."""
    try:
        facts = file.stat()
        identity = f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    except OSError:
        identity = str(file)
    return hashlib.sha256(f"{part} {identity}".encode()).hexdigest()[:32]
