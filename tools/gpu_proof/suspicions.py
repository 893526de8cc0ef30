"""Faults that were suspected from reading the code: each is proved or disproved, with the figure that decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpu_proof import internals
from gpu_proof.finding import Check, Context, Figures, Finding, judged, verdict
from gpu_proof.models import autocast
from gpu_proof.timing import Spread, free_memory, in_turn, peak_memory
from gpu_proof.training import NEEDS, options
from gpu_proof.videos import motions

MOST_MASK = 100e6  # bytes, of all window masks of Swin-T; expanded for every window they are 0.5 to 1.1 GB
MOST_OFF = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.01}  # of the largest value
CUDA_GRID = 65_535  # blocks along the second and third axis of a launch
MOST_TIMES = 1.2  # the fastest way's time
GROUPS = ((24, 4), (2, 32))  # clips and heads: many groups of positions, and many heads of them


def checks() -> list[Check]:
    """In the order of what they could cost."""
    data = ("av",)
    return [
        Check("suspicions/window masks", "window masks are expanded for every window", window_masks),
        Check("suspicions/attention over time", "more than 65,535 groups fail or go wrong", many_groups),
        Check("suspicions/waits in a step", "the host waits for the device within a step", waits, 90, NEEDS),
        Check(
            "suspicions/pinned views", "views are copied from memory that is not pinned", pinned_views, 60, data, True
        ),
        Check("suspicions/constants", "constants of normalisation are made for every batch", constants, 30, data),
        Check("suspicions/depthwise backward", "torch's backward pass of a depthwise Conv3d is slow", depthwise, 60),
    ]


# --- memory of masks --------------------------------------------------------------------------------------------------


class Masks(TorchDispatchMode):
    """Storage of attention masks, by address, and the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: dict[int, int] = {}
        self.largest = 0
        self.kept: list[Tensor] = []  # so that no address is given twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "scaled_dot_product" in str(func) and "backward" not in str(func):
            named = (kwargs or {}).get("attn_bias", (kwargs or {}).get("attn_mask"))
            for mask in (*args[3:], named):
                if isinstance(mask, Tensor):
                    self.kept.append(mask)
                    self.bytes[mask.untyped_storage().data_ptr()] = mask.untyped_storage().nbytes()
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return out


def window_masks(context: Context) -> Finding:
    """Bytes of all masks that a Video Swin-T hands to attention for one clip of 32 x 224 x 224."""
    import hybridvideo as hv

    size: dict[str, Any] = {"num_frames": 4, "image_size": 32, "depths": (2,), "heads": (3,)} if context.small else {}
    figures: Figures = {}
    most = 0
    with torch.device(context.device):
        model = hv.create_model("video_swin_tiny", 400, **size)
    x_BCTHW = torch.randn(1, *model.input_shape, device=context.device)
    for mode in ("evaluation", "training"):
        model.train(mode == "training")
        with torch.set_grad_enabled(model.training), autocast(context.device, "bf16"), Masks() as masks:
            model(x_BCTHW)
        total = sum(masks.bytes.values())
        most = max(most, total)
        row: Figures = {"masks": len(masks.bytes), "bytes of masks": total, "largest tensor": masks.largest}
        masks.kept.clear()
        figures[mode] = row | {"peak memory": peak_memory(partial(one_pass, model, x_BCTHW), context.device)}
    clip = " x ".join(map(str, model.input_shape))
    return verdict(most > MOST_MASK, f"{most / 1e6:.1f} MB of masks for a clip of {clip}", **figures)


def one_pass(model: torch.nn.Module, x_BCTHW: Tensor) -> None:
    """Forward in bf16, and in training back."""
    with torch.set_grad_enabled(model.training), autocast(x_BCTHW.device, "bf16"):
        out = model(x_BCTHW)
    if model.training:
        out.float().sum().backward()
        model.zero_grad()


# --- many groups ------------------------------------------------------------------------------------------------------


def many_groups(context: Context) -> Finding:
    """Attention over time of 56 x 56 positions, many clips or many heads, against the same for a few rows at a time."""
    side, dim = (4, 32) if context.small else (56, 256)
    figures: Figures = {"limit of a launch": CUDA_GRID}
    wrong = []
    for (batch, heads), precision in product(GROUPS, MOST_OFF):
        torch.manual_seed(0)
        part = internals.temporal_attention(dim, heads).to(context.device)
        x_BTHWC = torch.randn(3 if context.small else batch, 8, side, side, dim, device=context.device)
        case = f"{len(x_BTHWC) * side * side} groups of {heads} heads, {precision}"
        try:
            at_once, in_portions = (passes(part, x_BTHWC, rows, precision) for rows in (side, side // 4))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            wrong.append(f"{case}: {str(error).splitlines()[0][:120]}")
            break  # the device may be lost
        errors = [relative(one, other) for one, other in zip(at_once, in_portions, strict=True)]
        figures[case] = {"error of output": errors[0], "error of gradient": errors[1]}
        wrong += [f"{case}: error {error:.1e}" for error in errors if not error <= MOST_OFF[precision]]
        free_memory(context.device)
    return verdict(bool(wrong), "; ".join(wrong) or "many groups and heads give what few at a time give", **figures)


def passes(part: torch.nn.Module, x_BTHWC: Tensor, rows: int, precision: str) -> tuple[Tensor, Tensor]:
    """Output and gradient of the input, a few rows of the grid at a time."""
    outs, gradients = [], []
    for x in x_BTHWC.split(rows, 2):
        x = x.detach().clone().requires_grad_()
        with autocast(x.device, precision):
            out = part(x)
        out.float().square().sum().backward()
        assert x.grad is not None
        outs.append(out.detach().float())
        gradients.append(x.grad)
    part.zero_grad()
    return torch.cat(outs, 2), torch.cat(gradients, 2)


def relative(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


# --- waiting ----------------------------------------------------------------------------------------------------------


def waits(context: Context) -> Finding:
    """Synchronisations from the first forward pass to the optimizer's step, in a training of the demo."""
    run, counts = context.folder / "watched", context.folder / "waits.json"
    changes = {"train.epochs": 1, "augment.mixup": 0.0}
    words = ["train", "--out", str(run), *options(motions(context), "bf16", context, changes)]
    environment = {**os.environ, "PROOF_SYNCS": str(counts)}
    command = [sys.executable, "-m", "gpu_proof.command", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"training ended with code {done.returncode}: {done.stderr[-2000:]}")
    found = json.loads(counts.read_text())
    places: dict[str, int] = {**found["read"], **found["waited"]}
    per_step = max(sum(found["read"].values()), sum(found["waited"].values())) / max(found["steps"], 1)
    if not found["steps"]:
        return judged(False, "no step was seen", **found)
    where = ", ".join(f"{place} ({count})" for place, count in sorted(places.items(), key=lambda item: -item[1])[:3])
    return verdict(per_step > 0, f"{per_step:.1f} waits per step{': ' if where else ''}{where}", **found)


# --- copying ----------------------------------------------------------------------------------------------------------


def pinned_views(context: Context) -> Finding:
    """Calls of `pin_memory` while videos are classified."""
    import hybridvideo as hv

    videos = sorted((motions(context) / "test").rglob("*.*"))[:4]
    model = hv.create_model("hybrid_micro", 8)
    original = Tensor.pin_memory
    pinned = []

    def counted(tensor: Tensor, *arguments: Any) -> Tensor:
        pinned.append(tensor.numel())
        return original(tensor, *arguments)

    with patch.object(Tensor, "pin_memory", counted):
        rows = list(hv.classify(model, videos, workers=2, device=context.device))
    read = sum(row["status"] in ("ok", "partial") for row in rows)
    figures: Figures = {"videos": len(videos), "read": read, "tensors pinned": len(pinned), "bytes pinned": sum(pinned)}
    if not read:
        return judged(False, f"none of {len(videos)} videos could be read: {rows[0]['reason']}", **figures)
    return verdict(not pinned, f"{len(pinned)} tensors of {read} videos were pinned", **figures)


class SmallCopies(TorchDispatchMode):
    """Counts small tensors that are made from numbers or copied from the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made = self.copied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.numel() <= 16:
            self.made += "lift_fresh" in str(func)
            self.copied += "copy" in str(func) and isinstance(args[0], Tensor) and args[0].device != out.device
        return out


def constants(context: Context) -> Finding:
    """Small tensors made while a batch is normalised whose statistics were used before."""
    side = 16 if context.small else 112
    clip_BCTHW = torch.randint(0, 256, (4, 3, 8, side, side), dtype=torch.uint8, device=context.device)
    internals.normalised(clip_BCTHW)
    with SmallCopies() as counted:
        internals.normalised(clip_BCTHW)
    figures: Figures = {"made from numbers": counted.made, "copied from the host": counted.copied}
    total = counted.made + counted.copied
    return verdict(total > 0, f"{counted.made} made and {counted.copied} copied for each batch", **figures)


# --- depthwise convolution --------------------------------------------------------------------------------------------


def depthwise(context: Context) -> Finding:
    """Forward and backward of 3x3x3 and 5x5x5 in bf16 and fp32, by each way there is."""
    shape = (1, 4, 8, 8, 8) if context.small else (16, 8, 56, 56, 64)  # B T H W C
    ways = internals.depthwise_ways()
    figures: Figures = {"shape BTHWC": list(shape)}
    slow = []
    for side, precision in product((3, 5), ("bf16", "fp32")):
        conv = internals.depthwise_conv(shape[-1], side).to(context.device)
        x_BTHWC = torch.randn(shape, device=context.device, requires_grad=True)
        calls = {name: partial(there_and_back, way, conv, x_BTHWC, precision) for name, way in ways.items()}
        medians = {name: 1e3 * Spread.of(each).median for name, each in in_turn(calls, context, 2.0).items()}
        case, best = f"{side}x{side}x{side} {precision}", min(medians, key=lambda name: medians[name])
        chosen = internals.depthwise_choice(x_BTHWC)
        figures[f"{case}, ms"] = {**medians, "chosen": chosen}
        if medians[chosen] > MOST_TIMES * medians[best]:
            slow.append(f"{case}: {best} is {medians[chosen] / medians[best]:.1f} times as fast as {chosen}")
        free_memory(context.device)
    if context.small:
        return judged(True, "timed at a small size, where no way is meant to win", **figures)
    return verdict(
        bool(slow),
        "; ".join(slow) or f"the way that is chosen is within {MOST_TIMES} of the fastest",
        **figures,
    )


def there_and_back(way: internals.DepthwiseWay, conv: torch.nn.Conv3d, x_BTHWC: Tensor, precision: str) -> None:
    """Forward, and gradients of input and weight."""
    with autocast(x_BTHWC.device, precision):
        out = way(conv, x_BTHWC)
    out.float().square().mean().backward()
    conv.zero_grad()
    x_BTHWC.grad = None
