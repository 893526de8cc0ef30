"""Validation within training: one centre clip of each video, from the weights that count.

B clips of a batch   N videos   K classes
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hybridvideo.data.device import device_batches
from hybridvideo.engine.exchange import gather, gather_numbers
from hybridvideo.engine.metrics import accuracy
from hybridvideo.engine.training.frozen import FrozenDataset
from hybridvideo.engine.training.run import Parts, Plan, manifest_of
from hybridvideo.engine.training.step import model_input
from hybridvideo.engine.training.unreadable import allowed, too_many
from hybridvideo.errors import TooMuchBadData

Row = tuple[int, int, bool, str, list[float]]  # index, label, whether it was read, why not, logits


def validate(parts: Parts, plan: Plan) -> dict[str, Any]:
    """Figures of the validation list, for an epoch's line; None for a figure of nothing.

    Videos that cannot be read are counted, not replaced; one whose logits are no finite numbers is wrong.

    Raises:
        TooMuchBadData: more videos could not be read than the plan allows.
    """
    rows = sorted(row for part in gather(parts.accelerator, validate_share(parts, plan)) for row in part if row[0] >= 0)
    read = [row for row in rows if row[2]]
    figures = dict.fromkeys(("val_loss", "val_top1", "val_top5", "val_mean_class_accuracy"))
    counts = {"val_videos": len(read), "val_failed": len(rows) - len(read)}
    if not read:
        return figures | counts
    scores_NK = np.array([row[4] for row in read], np.float64)
    labels_N = np.array([row[1] for row in read], np.int64)
    found = accuracy(scores_NK, labels_N, plan.card.labels)
    loss = float(F.cross_entropy(torch.from_numpy(scores_NK), torch.from_numpy(labels_N)))
    return {"val_loss": loss, "val_top1": found.top1, "val_top5": found.top5,
            "val_mean_class_accuracy": found.mean_class_accuracy, **counts,
            "val_not_finite": int((~np.isfinite(scores_NK).all(1)).sum())}  # fmt: skip


@torch.no_grad()
def validate_share(parts: Parts, plan: Plan) -> list[Row]:
    """What came out for the videos of this process."""
    assert parts.val is not None
    order, loader = parts.val
    order.set_epoch(0)
    model = parts.evaluated.eval()
    forward = model.forward_rest if isinstance(loader.dataset, FrozenDataset) else model
    rows: list[Row] = []
    for batch in device_batches(loader, parts.accelerator.device):
        logits_BK = torch.zeros(len(batch["ok"]), parts.model.num_classes)
        if bool(batch["ok"].any()):
            with parts.accelerator.autocast():
                logits_BK = forward(model_input(model, batch)).float().cpu()
        why_not = [f"{status}: {reason}" for status, reason in zip(batch["status"], batch["reason"], strict=True)]
        rows += zip(batch["index"].tolist(), batch["label"].tolist(), batch["ok"].tolist(), why_not,
                    logits_BK.tolist(), strict=True)  # fmt: skip
        check_failures(parts, plan, rows)
    return rows


def check_failures(parts: Parts, plan: Plan, rows: list[Row]) -> None:
    """Stop in all processes together once too many of the list could not be read."""
    assert parts.val is not None
    failures = [row for row in rows if not row[2] and row[0] >= 0]
    counts = gather_numbers(parts.accelerator, [len(failures)])
    failed, listed = sum(count for (count,) in counts), parts.val[0].num_samples
    if not too_many(failed, listed, plan.max_bad):
        return
    data = parts.val[1].dataset
    told = [f"{manifest_of(data).rows[index].path}: {why_not}" for index, _, _, why_not, _ in failures]
    first = min(line for part in gather(parts.accelerator, told) for line in part)
    raise TooMuchBadData(
        f"{failed} of {listed} validation videos cannot be read, {allowed(plan.max_bad)} (first: {first}); the run is "
        "saved: mend them or raise data.max_bad, and --resume goes on"
    )
