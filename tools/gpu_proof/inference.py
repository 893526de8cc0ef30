"""Inference on the device: weights kept in lower precision follow every change, and `cuda:0` is `cuda`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_proof.finding import Check, Context, Figures, Finding, judged
from gpu_proof.models import autocast, clips
from gpu_proof.videos import motions

SUBJECTS = ("hybrid_micro", "hybrid_tiny", "timesformer_base", "video_swin_tiny", "videomae_small", "uniformer_small")

MOST_OFF = 0.01  # of the change: weights that were kept too long are off by all of it


def checks() -> list[Check]:
    """Both."""
    return [
        Check("inference/autocast caches", "logits in bf16 follow every way of changing weights", caches, 90),
        Check("inference/device by index", "cuda:0 gives what cuda gives, in jobs and loaders", by_index, 60, ("av",)),
    ]


def caches(context: Context) -> Finding:
    """After each change: the logits of a model that computed before it, and of a new copy that did not."""
    import hybridvideo as hv

    figures: Figures = {}
    stale = []
    for name in SUBJECTS[: 2 if context.small else None]:
        frames, side = (8, 32) if context.small else (8, 64)
        x_BCTHW = clips(frames, side).to(context.device)
        with torch.device(context.device):
            model = hv.create_model(name, 16, num_frames=frames, image_size=side)
            other = hv.create_model(name, 16, num_frames=frames, image_size=side).state_dict()
        for what, change in changes(other, x_BCTHW).items():
            before = logits(model, x_BCTHW)
            change(model)
            after, fresh = logits(model, x_BCTHW), logits(copy.deepcopy(model), x_BCTHW)
            moved, off = (after - before).abs().max().item(), (after - fresh).abs().max().item()
            figures[f"{name}, {what}"] = {"change of logits": moved, "off a fresh model": off}
            if not off <= MOST_OFF * moved or not moved > 0:
                stale.append(f"{name} after {what}: off by {off:.1e}, moved by {moved:.1e}")
    return judged(not stale, "; ".join(stale) or f"{len(figures)} changes were all seen", **figures)


def changes(other: dict[str, Tensor], x_BCTHW: Tensor) -> dict[str, Callable[[nn.Module], object]]:
    """Ways in which weights change."""

    def in_place(model: nn.Module) -> None:
        with torch.no_grad():
            torch._foreach_mul_(list(model.parameters()), 1.1)

    def step(model: nn.Module, fused: bool) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        F.cross_entropy(model.train()(x_BCTHW), torch.arange(len(x_BCTHW), device=x_BCTHW.device)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return {
        "load_state_dict": lambda model: model.load_state_dict(other),
        "a change in place": in_place,
        "a step of AdamW": lambda model: step(model, False),
        "a step of fused AdamW": lambda model: step(model, True),
    }


@torch.no_grad()
def logits(model: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """In bf16, in evaluation."""
    model.eval()
    with autocast(x_BCTHW.device, "bf16"):
        out: Tensor = model(x_BCTHW)
    return out.float()


def by_index(context: Context) -> Finding:
    """Classification, and a loader's batches, on the device named both ways."""
    import hybridvideo as hv

    device = context.device
    names = (str(device), device.type) if device.index == 0 else (str(device),)
    workers = 0 if context.small else 2
    torch.manual_seed(0)
    model = hv.create_model("hybrid_micro", 8)
    videos = sorted((motions(context) / "test").rglob("*.*"))[:4]
    scores, places, sums = [], [], []
    for name in names:
        rows = list(hv.classify(model, videos, workers=workers, device=name, top_k=8))
        scores.append([row["topk_scores"] for row in rows])
        with hv.loader(
            hv.dataset(videos, labelled=False, frames=8, size=32), batch_size=4, workers=workers, device=name
        ) as loader:
            batch = next(iter(loader))
        places.append(str(batch["clip"].device))
        sums.append(int(batch["clip"].long().sum()))
    figures: Figures = {"names": list(names), "devices of batches": places, "sums of batches": sums, "scores": scores}
    same = all(each == scores[0] for each in scores) and len(set(sums)) == 1 and all(map(len, scores[0]))
    where = all(torch.device(place).type == device.type for place in places)
    return judged(same and where, f"{' and '.join(names)}: {'one result' if same else 'results differ'}", **figures)
