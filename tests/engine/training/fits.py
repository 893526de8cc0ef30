"""Feeds of clips in memory and objectives of more than one kind, for tests of `fit` without videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hybridvideo.config.data import ClipConfig, FrameConfig, Normalisation
from hybridvideo.config.training import OptimConfig, TrainConfig
from hybridvideo.data.dataset import PADDING, ClipItem, collate_clips
from hybridvideo.data.loader import EpochOrder
from hybridvideo.engine.training.feeds import Feed
from hybridvideo.engine.training.objective import Batch, Best, Figures, Gather, Loss, Objective, Place, model_input
from hybridvideo.engine.training.phases import Phase
from hybridvideo.engine.training.run import Plan
from hybridvideo.models.contract import Outputs
from hybridvideo.models.published.videomae_pretraining import reconstruction_targets


def phase(epochs: int = 2, **changes: Any) -> Phase:
    """On clips of 4 frames of 16x16, in batches of 4."""
    return replace(Phase(epochs, ClipConfig(frames=4), FrameConfig(16, 16), 4), **changes)


def plan(*phases: Phase, optim: OptimConfig | None = None, **loop: Any) -> Plan:
    """A plan of those phases, or of one."""
    settings = TrainConfig(trackers=[], log_every=1, **loop)
    return Plan(phases or (phase(),), optim or OptimConfig(warmup_epochs=0.5), settings, max_bad=0.5)


class Clips(Dataset[ClipItem]):
    """Clips of a phase's size, of four brightnesses, which are their labels; those in `bad` cannot be read."""

    def __init__(self, phase: Phase, count: int, bad: tuple[int, ...]) -> None:
        self.shape = (3, phase.clip.frames, phase.frame.height, phase.frame.width)
        self.count, self.bad = count, bad

    def __getitem__(self, key: tuple[int, int]) -> ClipItem:
        _, index = key
        ok = index != PADDING and index not in self.bad
        noise = torch.randint(0, 20, self.shape, generator=torch.Generator().manual_seed(index + 1), dtype=torch.uint8)
        return ClipItem(
            clip=noise + 60 * (index % 4) if ok else torch.zeros(self.shape, dtype=torch.uint8),
            contrast=1.0,
            padded=0.0,
            label=index % 4 if index != PADDING else -1,
            index=index,
            ok=ok,
            status="ok" if ok else "padding" if index == PADDING else "unreadable",
            reason="",
        )


@dataclass
class MemoryFeeds:
    """`count` clips to train on, and the first four to validate on."""

    accelerator: Accelerator
    count: int = 10
    bad: tuple[int, ...] = ()
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    """Of the clips of each phase, as they were asked for."""

    def batches(self, phase: Phase) -> int:
        return self._feed(phase, self.count, shuffle=True).order.batches

    def training(self, phase: Phase) -> Feed:
        self.shapes.append((phase.clip.frames, phase.frame.height, phase.frame.width))
        return self._feed(phase, self.count, shuffle=True)

    def validation(self) -> Feed:
        return self._feed(phase(), 4, shuffle=False)

    def _feed(self, phase: Phase, count: int, *, shuffle: bool) -> Feed:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        order = EpochOrder(count, 0, batch_size=phase.batch_size, shuffle=shuffle, rank=rank, world=world)
        clips = Clips(phase, count, self.bad if shuffle else ())
        loader: DataLoader[Any] = DataLoader(clips, batch_sampler=order, collate_fn=collate_clips)
        return Feed(order, loader, [SimpleNamespace(path=f"{i}.mp4") for i in range(count)])


# --- objectives -------------------------------------------------------------------------------------------------------


@dataclass
class Reconstruction(Objective):
    """Mean squared error on the masked tubelets of a clip; another mask for each batch."""

    normalisation: Normalisation
    patch: tuple[int, int, int]
    best = Best("val_error", higher=False)
    seen: int = 0
    """Clips of this process, which a resumed run must remember."""

    def loss(self, trainee: nn.Module, batch: Batch, place: Place) -> Loss:
        self.seen += len(batch["counts"])
        error_B = self.errors(trainee, batch, place.shared_generator())
        return Loss((error_B * batch["ok"]).sum(), {"visible": batch["ok"].float().sum() / 2})

    def errors(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        inputs = model_input(self.normalisation, batch)
        t, h, w = (size // step for size, step in zip(inputs.shape[2:], self.patch, strict=True))
        order_N = torch.randperm(t * h * w, generator=generator)
        mask_BN = (order_N < t * h * w // 2).expand(len(inputs), -1)
        targets = reconstruction_targets(inputs, mask_BN, self.patch, self.normalisation)
        return F.mse_loss(model(inputs, mask_BN).float(), targets, reduction="none").mean((1, 2))

    def validate(self, model: nn.Module, batches: Iterator[Batch], gather: Gather) -> Figures:
        generator = torch.Generator().manual_seed(0)
        rows = [
            (index, error)
            for batch in batches
            for index, error in zip(
                batch["members"], self.errors(model, batch, generator.manual_seed(0)).tolist(), strict=True
            )
            if index != PADDING
        ]
        errors = [error for part in gather(rows) for _, error in part]
        return {"val_error": sum(errors) / len(errors)}

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class TwoHeads(nn.Module):
    """A network that gives more in training: logits, and those of a second head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv3d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm3d(8)
        self.head, self.second = nn.Linear(8, 4), nn.Linear(8, 4)
        self.drop = nn.Dropout(0.1)

    def forward(self, x_BCTHW: Tensor) -> Tensor | Outputs:
        features_BC = self.drop(self.norm(self.stem(x_BCTHW)).relu().mean((2, 3, 4)))
        logits_BK: Tensor = self.head(features_BC)
        return Outputs(logits_BK, {"second": self.second(features_BC)}) if self.training else logits_BK

    def no_weight_decay(self) -> set[str]:
        return set()

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        stem = [*self.stem.parameters(), *self.norm.parameters()]
        return [("stem", stem), ("head", [*self.head.parameters(), *self.second.parameters()])]


class TwoLosses(Objective):
    """Cross-entropy of logits and of auxiliary logits."""

    best = Best("val_right")
    share = 0.5

    def loss(self, trainee: nn.Module, batch: Batch, place: Place) -> Loss:
        outputs = trainee(model_input(Normalisation(), batch))
        main, second = (
            (F.cross_entropy(logits.float(), batch["label"].clamp(min=0), reduction="none") * batch["ok"]).sum()
            for logits in (outputs.logits, outputs.auxiliary["second"])
        )
        return Loss(main + self.share * second, {"main": main, "second": second})

    def validate(self, model: nn.Module, batches: Iterator[Batch], gather: Gather) -> Figures:
        right = total = 0
        for batch in batches:
            logits_BK = model(model_input(Normalisation(), batch))
            right += int(((logits_BK.argmax(1) == batch["label"]) & batch["ok"]).sum())
            total += sum(batch["counts"])
        parts = gather((right, total))
        return {"val_right": sum(part[0] for part in parts) / sum(part[1] for part in parts)}
