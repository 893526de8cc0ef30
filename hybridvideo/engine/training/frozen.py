"""The frozen part of a model is computed once: its outputs, one file per video, take the place of the clips.

This is possible only if the sole randomness before that part is a choice among a few variants of a clip (flipped or
not, one of several contrasts): then all of them are computed. Files are named after what they were computed from
(video, preprocessing, frozen weights), so an interrupted computation continues, and runs share a folder: other seeds
and other heads find what the first run computed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from hybridvideo.config.data import AugmentConfig, ClipConfig
from hybridvideo.config.jobs import Reading
from hybridvideo.data.dataset import PADDING, ClipBatch, ClipDataset
from hybridvideo.data.device import device_batches, normalise
from hybridvideo.data.loader import EpochOrder, train_loader
from hybridvideo.data.transforms import TrainTransform
from hybridvideo.engine.exchange import gather
from hybridvideo.engine.progress import progress
from hybridvideo.errors import USABLE, EnvironmentFault, TooMuchBadData, VideoError
from hybridvideo.files import replacing_file, writing
from hybridvideo.models.card import write_tensors
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import plain
from hybridvideo.text import one_line

LARGEST_IN_MEMORY = 4 * 2**30  # bytes of outputs kept in memory by one process
LARGEST_SHARED = 50 * 2**30  # bytes of outputs that stay on disk for the next run
SHARED_CACHE = ".frozen"  # the folder of outputs, next to the run folders
SUFFIX, IN_USE = ".safetensors", ".in-use"

Variant = tuple[bool, float]  # flipped, contrast


def can_be_kept(clip: ClipConfig, augment: AugmentConfig) -> bool:
    """Return whether a training clip is one of a few variants in every epoch."""
    one = augment.crop == "none" and augment.repeats == 1
    return clip.train_start != "random" and one and not (augment.mixup or augment.cutmix)


def variants_of(augment: AugmentConfig) -> list[Variant]:
    """Return what an augmentation chooses from."""
    flips = [flipped for flipped, share in ((False, 1 - augment.flip), (True, augment.flip)) if share > 0]
    return [(flipped, contrast) for flipped in flips for contrast in sorted(set(augment.contrast))]


class FrozenDataset(Dataset[dict[str, Any]]):
    """Items like those of `ClipDataset`, with `frozen`, the output of the frozen part, for `clip`.

    At least one video must be readable, for its shape.
    """

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
        frozen, status, reason = read_output(self.files[variant][index], self.shape)
        return self._labelled(index, frozen, True, status, reason)

    def _labelled(self, index: int, frozen: Tensor, ok: bool, status: str, reason: str) -> dict[str, Any]:
        label = -1 if index == PADDING else self.clips.manifest.rows[index].label
        return {"frozen": frozen, "label": label, "index": index, "ok": ok, "status": status, "reason": reason}

    def _shape(self) -> list[int]:
        readable = next(file for i, file in enumerate(next(iter(self.files.values()))) if i not in self.failures)
        with safe_open(readable, "pt") as file:
            return list(file.get_slice("frozen").get_shape())


def frozen_loader(dataset: FrozenDataset, order: EpochOrder) -> DataLoader[dict[str, Any]]:
    """Return batches of the outputs, read in this process."""
    return DataLoader(dataset, batch_sampler=order, collate_fn=default_collate)


# --- computing --------------------------------------------------------------------------------------------------------


def compute_frozen(
    model: VideoModel,
    clips: ClipDataset,
    folder: Path,
    accelerator: Accelerator,
    reading: Reading,
    batch_size: int,
    name: str,
) -> FrozenDataset:
    """Compute the outputs of the frozen part for every video that has none yet; the processes share the work.

    name: of the list, for messages. Raises TooMuchBadData if no video can be read, EnvironmentFault if the outputs
    cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    todo = [share_of(model, variant, folder, accelerator) for variant in each_variant(clips)]
    failures: dict[int, VideoError] = {}
    missing = sum(len(share.waiting) for share in todo)
    with progress(f"frozen part, {name}", missing, accelerator.is_main_process) as advance:
        for share in todo:
            for batch in batches(share.clips, share.waiting, reading, batch_size, accelerator.device):
                failures |= store(model, batch, share.files)
                advance(len(batch["index"]))
    failures = {i: error for part in gather(accelerator, failures) for i, error in part.items()}
    if len(failures) == len(clips):
        index, error = min(failures.items())
        raise TooMuchBadData(
            f"none of the {len(clips)} {name} videos can be read (first: {clips.manifest.rows[index].path}: {error})"
        )
    return FrozenDataset(
        clips, dict(zip(variants_of(clips.transform.augment), (s.files for s in todo), strict=True)), failures
    )


def each_variant(clips: ClipDataset) -> Iterator[ClipDataset]:
    """Yield the clips as each of the variants."""
    for flipped, contrast in variants_of(clips.transform.augment):
        augment = replace(clips.transform.augment, flip=float(flipped), contrast=(contrast,))
        transform = TrainTransform(clips.transform.frame, augment)
        yield ClipDataset(
            clips.manifest,
            clips.clip,
            transform,
            clips.seed,
            bad=clips.bad,
            index=clips.index,
            quarantine=clips.quarantine,
        )


@dataclass(frozen=True)
class Share:
    """What one process computes of one variant."""

    clips: ClipDataset
    files: list[Path]
    """One per video, of all processes."""
    waiting: list[int]
    """The videos of this process whose file is missing."""


def share_of(model: VideoModel, clips: ClipDataset, folder: Path, accelerator: Accelerator) -> Share:
    """Return the share of this process: by index, not by what is missing, since others may be writing."""
    key = part_key(model, clips)
    files = [folder / f"{video_key(clips.manifest.file(i), key)}{SUFFIX}" for i in range(len(clips))]
    own = range(accelerator.process_index, len(files), accelerator.num_processes)
    return Share(clips, files, [i for i in own if not is_output(files[i])])


def is_output(file: Path) -> bool:
    """Whether a file holds what its name promises; if so, it is marked as used now."""
    try:
        with safe_open(file, "pt") as opened:
            notes = opened.metadata() or {}
            whole = "frozen" in opened.keys() and notes.get("name") == file.name  # noqa: SIM118
            whole = whole and notes.get("status") in USABLE and "reason" in notes
            whole = whole and opened.get_slice("frozen").get_dtype() == "F32"
        os.utime(file)
    except (OSError, SafetensorError):
        return False
    return whole


def read_output(file: Path, shape: list[int]) -> tuple[Tensor, str, str]:
    """Return output, status and reason of a video. EnvironmentFault if its file has changed or differs in shape."""
    try:
        with safe_open(file, "pt") as opened:
            notes, frozen = opened.metadata(), opened.get_tensor("frozen")
            if list(frozen.shape) == shape:
                return frozen, notes["status"], notes["reason"]
            why = f"its shape is {list(frozen.shape)}, not {shape}"
    except (OSError, SafetensorError, LookupError, TypeError) as error:
        why = one_line(error)
    raise EnvironmentFault(f"{file} is no longer an output of the frozen part ({why}); remove it, then --resume")


def batches(
    clips: ClipDataset, share: list[int], reading: Reading, batch_size: int, device: torch.device
) -> Iterator[ClipBatch]:
    """Yield the chosen clips, in order, on the device."""
    if not share:
        return
    chosen = [[(0, index) for index in share[i : i + batch_size]] for i in range(0, len(share), batch_size)]
    with train_loader(clips, chosen, workers=reading.workers, deadline=reading.deadline) as loader:
        yield from device_batches(loader, device)


def store(model: VideoModel, batch: ClipBatch, files: Sequence[Path]) -> dict[int, VideoError]:
    """Compute and write one batch; return the videos that could not be read."""
    model.eval()
    with torch.inference_mode():
        clips_BCTHW = normalise(batch["clip"], model.normalisation, batch["contrast"])
        outputs = model.forward_frozen(clips_BCTHW).float().cpu()
    failures: dict[int, VideoError] = {}
    for output, index, ok, status, reason in zip(
        outputs, batch["index"].tolist(), batch["ok"].tolist(), batch["status"], batch["reason"], strict=True
    ):
        if ok:
            with replacing_file(files[index]) as aside:
                notes = {"name": files[index].name, "status": status, "reason": reason}
                write_tensors(aside, {"frozen": output.clone()}, notes)
        else:
            failures[index] = VideoError(status, reason)
    return failures


def part_key(model: VideoModel, clips: ClipDataset) -> str:
    """Return a digest of what the outputs depend on besides the video."""
    digest = hashlib.sha256()
    digest.update(json.dumps([model.frozen_settings(), plain(model.normalisation), plain(clips.clip)]).encode())
    digest.update(next(model.parameters()).device.type.encode())
    digest.update(repr((clips.transform.frame, clips.transform.augment)).encode())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, value in model.state_dict().items():
        if name not in trained:
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def video_key(file: Path, part: str) -> str:
    """Return the name of a video's output; a changed file gets another."""
    try:
        facts = file.stat()
        identity = f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    except OSError:
        identity = str(file)
    return hashlib.sha256(f"{part} {identity}".encode()).hexdigest()[:32]


# --- the folder of the outputs ----------------------------------------------------------------------------------------


def shared_cache(run: Path) -> Path:
    """Return the default folder of a run's outputs: next to the run folder, for all runs there."""
    return run.parent / SHARED_CACHE if os.access(run.parent, os.W_OK) else run / "cache"


@contextmanager
def using(folder: Path, largest: int | None) -> Iterator[None]:
    """Hold the outputs in `folder` while they are in use; several processes and runs may do so at once.

    largest: bytes. The last one to leave removes what exceeds it, the longest unused first. None: nothing is removed.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / IN_USE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):  # on a file system without locks nothing is ever removed
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
        if largest is not None:
            with contextlib.suppress(OSError):  # others still use it
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                prune(folder, largest)
    finally:
        os.close(descriptor)


def prune(folder: Path, largest: int) -> None:
    """Remove the least recently used outputs beyond the limit in bytes, and what killed writers left."""
    for aside in folder.glob(f".*{SUFFIX}.*.new"):
        aside.unlink(missing_ok=True)
    files = sorted(((file, file.stat()) for file in folder.glob(f"*{SUFFIX}")), key=lambda pair: -pair[1].st_mtime_ns)
    total = 0
    for file, facts in files:
        total += facts.st_size
        if total > largest:
            file.unlink(missing_ok=True)
