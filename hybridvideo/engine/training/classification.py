"""Classification: cross-entropy with label smoothing and mixing; accuracies of one centre clip of each video.

B clips of this process's share   C T H W of a clip   N videos   K classes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.data import AugmentConfig, Normalisation
from hybridvideo.data.mixing import Mixing, own_partners, soft_targets
from hybridvideo.engine.exchange import permuted
from hybridvideo.engine.metrics import accuracy
from hybridvideo.engine.training.log import number, percent
from hybridvideo.engine.training.objective import Batch, Best, Figures, Gather, Loss, Objective, Place, model_input
from hybridvideo.models.contract import Outputs

Row = tuple[int, int, list[float]]  # index of the video, label, logits


@dataclass(frozen=True)
class Classification(Objective):
    """One label for each clip.

    Args:
        labels: names of the classes, in the order of the logits.
        normalisation: of the model's input.
        augment: its MixUp and CutMix.
        smoothing: share of each target that is spread evenly over all classes.
    """

    labels: Sequence[str]
    normalisation: Normalisation
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    smoothing: float = 0.0
    best = Best("val_top1")

    def loss(self, trainee: nn.Module, batch: Batch, place: Place) -> Loss:
        inputs, targets_BK = self.mixed(batch, place)
        ok_B = batch["ok"].float()
        terms = {name: (loss_B * ok_B).sum() for name, loss_B in loss_terms(trainee(inputs), targets_BK).items()}
        return Loss(torch.stack(list(terms.values())).sum(), terms if len(terms) > 1 else {})

    def mixed(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        """Return inputs and targets (B, K), mixed across all processes if the settings ask for it."""
        inputs, targets_BK = self.pairs(batch)
        if not (self.augment.mixup or self.augment.cutmix):
            return inputs, targets_BK

        def of_this_process(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            order_B = own_partners(len(inputs), generator, torch.tensor(batch["counts"]))
            order_B = order_B.to(inputs.device, non_blocking=True)
            return inputs[order_B], targets_BK[order_B]

        def of_all_processes(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            order = torch.randperm(sum(place.clips), generator=generator).tolist()
            own = [i for i, counts in enumerate(batch["counts"]) if counts]
            names = ("clip", "contrast", "label")
            return self.pairs({name: permuted(batch[name], own, order, place.clips, place.rank) for name in names})

        partners = of_all_processes if len(place.clips) > 1 else of_this_process
        return Mixing(self.augment)(inputs, targets_BK, place.shared_generator(), partners=partners)

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return inputs and shares of classes (B, K); those of a clip without a label do not matter."""
        targets_BK = soft_targets(batch["label"].clamp(min=0), len(self.labels), self.smoothing)
        return model_input(self.normalisation, batch), targets_BK

    def validate(self, model: nn.Module, batches: Iterator[Batch], gather: Gather) -> Figures:
        """Return loss and accuracies over the videos that could be read; non-finite logits count as wrong."""
        share = [row for batch in batches for row in self.scored(model, batch)]
        return self.figures(sorted(row for part in gather(share) for row in part))

    def scored(self, model: nn.Module, batch: Batch) -> list[Row]:
        """Return the logits of those clips of a batch that could be read."""
        if not any(batch["counts"]):
            return []
        logits_BK = logits_of(model(model_input(self.normalisation, batch))).float().cpu()
        rows = zip(batch["members"], batch["label"].tolist(), logits_BK.tolist(), strict=True)
        return [row for row, counts in zip(rows, batch["counts"], strict=True) if counts]

    def figures(self, rows: list[Row]) -> Figures:
        """Return the figures of an epoch's line."""
        if not rows:
            return dict.fromkeys(("val_loss", "val_top1", "val_top5", "val_mean_class_accuracy"))
        scores_NK = np.array([row[2] for row in rows], np.float64)
        labels_N = np.array([row[1] for row in rows], np.int64)
        found = accuracy(scores_NK, labels_N, self.labels)
        return {
            "val_loss": float(F.cross_entropy(torch.from_numpy(scores_NK), torch.from_numpy(labels_N))),
            "val_top1": found.top1,
            "val_top5": found.top5,
            "val_mean_class_accuracy": found.mean_class_accuracy,
            "val_not_finite": int((~np.isfinite(scores_NK).all(1)).sum()),
        }

    def summary(self, figures: Figures, best: float | None) -> list[str]:
        bad = figures.get("val_not_finite")
        return [
            f"val loss {number(figures.get('val_loss'))}",
            f"top-1 {percent(figures.get('val_top1'))}",
            f"best {percent(best)}",
            *([f"{bad} validation videos without a finite score"] if bad else []),
        ]


def loss_terms(output: Tensor | Outputs, targets_BK: Tensor) -> dict[str, Tensor]:
    """Return the terms of the loss of each clip (B,), by name: their sum is what is trained.

    Args:
        output: of a call of a model in training: logits, or `Outputs`, which describes how its entries count.
        targets_BK: shares of the classes.

    Returns:
        `cross_entropy` of the logits, `cross_entropy_NAME` of auxiliary `logits_NAME`, and each `cost_NAME`.
    """
    outputs = output if isinstance(output, Outputs) else Outputs(output)
    terms = {"cross_entropy": cross_entropy(outputs.logits, targets_BK)} if outputs.supervised else {}
    for name, value in outputs.auxiliary.items():
        if name.startswith("logits_"):
            terms[f"cross_entropy_{name.removeprefix('logits_')}"] = cross_entropy(value, targets_BK)
        elif name.startswith("cost_"):
            terms[name] = value.float()
    assert terms, "outputs that nothing in them supervises"
    return terms


def clip_losses(output: Tensor | Outputs, targets_BK: Tensor) -> Tensor:
    """Return the sum of `loss_terms`, the loss of each clip (B,), for a loop of one's own."""
    return torch.stack(list(loss_terms(output, targets_BK).values())).sum(0)


def cross_entropy(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Return the cross-entropy of each clip, in float32."""
    return F.cross_entropy(logits_BK.float(), targets_BK, reduction="none")


def logits_of(output: Tensor | Outputs) -> Tensor:
    """Return the logits of a call, which may have returned more."""
    return output.logits if isinstance(output, Outputs) else output
