"""Speed and memory next to torchvision's Video Swin-T and transformers' TimeSformer-B, same weights, clips and rounds.

Both sides run in turn within every round, in torch's default precision settings (cuDNN may use TF32 in fp32). The share
of the matrix rate is multiply-adds as published, times two, a forward pass once and a training step three times, over
the rate of a large bf16 product measured in the same check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_proof.finding import Check, Context, Figures, Finding, judged
from gpu_proof.models import autocast, exact_products
from gpu_proof.timing import Spread, free_memory, in_turn, matrix_rate, peak_memory, ratios

MODES = ("bf16", "training bf16", "fp32", "training fp32")
BATCHES = (16, 1)
CLASSES = 400
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Side:
    """One of the networks that are timed."""

    name: str
    model: nn.Module
    call: Callable[[Tensor], Tensor]


def checks() -> list[Check]:
    """One for each network."""
    question = "clips per second, memory and share of the matrix rate, forward and training, batches of 16 and 1"
    return [
        Check("peers/hybrid_base", question, hybrid_base, 60),
        Check("peers/video_swin_tiny", f"{question}, against torchvision", against_torchvision, 90, ("torchvision",)),
        Check("peers/timesformer_base", f"{question}, against transformers", against_hf, 90, ("transformers",)),
    ]


def hybrid_base(context: Context) -> Finding:
    """Ours alone: nobody else has it."""
    import hybridvideo as hv

    size = {"num_frames": 4, "image_size": 32} if context.small else {}
    with torch.device(context.device):
        model = hv.create_model("hybrid_tiny" if context.small else "hybrid_base", CLASSES, **size)
    return measured([Side("ours", model.to(context.device), model)], model.input_shape, context)


def against_torchvision(context: Context) -> Finding:
    """Video Swin-T; at small size with one pair of blocks, narrow."""
    from model_peers import NAMES, make_pair, randomise

    from hybridvideo.models import create_model
    from hybridvideo.weights.load_weights import load_weights

    if not context.small:
        pair = make_pair(NAMES[0], str(context.device))
        return pair_measured(pair.peer, pair.peer_logits, pair.ours, context)
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    peer = SwinTransformer3d(
        patch_size=[2, 4, 4], embed_dim=24, depths=[2], num_heads=[2], window_size=[4, 4, 4], num_classes=CLASSES
    )
    randomise(peer)
    shape = {"num_frames": 4, "image_size": 32}
    ours = create_model(
        "video_swin_tiny", CLASSES, dim=24, depths=(2,), heads=(2,), window=(4, 4, 4), drop_path=0.0, **shape
    )
    load_weights(ours, peer.state_dict())
    for module in peer.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    return pair_measured(peer, peer, ours, context)


def against_hf(context: Context) -> Finding:
    """TimeSformer-B with divided attention; at small size with two blocks, narrow."""
    from model_peers import NAMES, make_pair, randomise

    from hybridvideo.models import create_model
    from hybridvideo.weights.load_weights import load_weights

    if not context.small:
        pair = make_pair(NAMES[1], str(context.device))
        return pair_measured(pair.peer, pair.peer_logits, pair.ours, context)
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    settings: dict[str, int] = {
        "num_labels": CLASSES, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 192, "image_size": 32, "num_frames": 4,
    }  # fmt: skip
    peer = TimesformerForVideoClassification(TimesformerConfig(**settings))  # type: ignore[arg-type]
    randomise(peer)
    size = {"num_frames": 4, "image_size": 32, "dim": 48, "depth": 2, "heads": 4, "drop_path": 0.0}
    ours = create_model("timesformer_base", CLASSES, **size)
    load_weights(ours, peer.state_dict())
    return pair_measured(peer, lambda x_BCTHW: peer(x_BCTHW.transpose(1, 2)).logits, ours, context)


def pair_measured(peer: nn.Module, call: Callable[[Tensor], Tensor], ours: nn.Module, context: Context) -> Finding:
    """Agreement first; then both are timed."""
    shape: Shape = ours.input_shape  # type: ignore[assignment]
    sides = [Side("peer", peer, call), Side("ours", ours, ours)]
    for side in sides:
        side.model.eval()
    x_BCTHW = torch.randn(1, *shape, device=context.device)
    with torch.inference_mode(), exact_products():
        theirs, own = (side.call(x_BCTHW) for side in sides)
    difference = ((theirs - own).abs().max() / own.abs().max()).item()
    finding = measured(sides, shape, context)
    agree = difference <= 1e-4
    summary = finding.summary if agree else f"logits differ by {difference:.1e} of the largest"
    status = finding.status if agree else "failed"
    return replace(finding, status=status, summary=summary, figures={"difference": difference, **finding.figures})


def measured(sides: list[Side], shape: Shape, context: Context) -> Finding:
    """All modes and batches, for as long as there is time. It fails if ours is slower or takes more memory."""
    rate = matrix_rate(context, torch.bfloat16)
    work = multiply_adds(sides[-1].model, shape)
    figures: Figures = {"clip": list(shape), "GMACs": work / 1e9, "matrix TFLOP/s, bf16": rate.median / 1e12}
    slower, short = [], []
    for batch in (2, 1) if context.small else BATCHES:
        for mode in MODES:
            if context.left() < (1 if context.small else 12):
                slower.append(f"{mode}, batch {batch}: no time was left")
                continue
            free_memory(context.device)
            row = time_sides(sides, torch.randn(batch, *shape, device=context.device), mode, context, work, rate)
            figures[f"{mode}, batch {batch}"] = row
            slower += [f"{mode}, batch {batch}: {text}" for text in behind(row)] if context.cuda else []
            short.append(f"{mode} x{batch} {brief(row)}")
    return judged(not slower, "; ".join(slower) or ", ".join(short[:4]), **figures)


def time_sides(
    sides: list[Side], x_BCTHW: Tensor, mode: str, context: Context, work: float, rate: Spread
) -> dict[str, Figures]:
    """Figures of each side, and `ours` also against the peer. A side that runs out of memory has a row that says so."""
    calls, row = {}, {side.name: Figures() for side in sides}
    for side in sides:
        side.model.train("training" in mode).zero_grad()
        call = partial(one_pass, side, x_BCTHW, mode)
        try:
            row[side.name]["peak memory (MB)"] = megabytes(peak_memory(call, context.device))
            calls[side.name] = call
        except torch.OutOfMemoryError:
            row[side.name]["peak memory (MB)"] = "out of memory"
        side.model.zero_grad()
        free_memory(context.device)
    rounds = in_turn(calls, context)
    clips, passes = len(x_BCTHW), 3 if "training" in mode else 1
    for name, seconds in rounds.items():
        speed = Spread.of([clips / each for each in seconds])
        share = 2 * work * passes * speed.median / rate.median
        row[name] |= {"clips/s": speed.figures(), "share of matrix rate": share, "rounds": len(seconds)}
    if {"peer", "ours"} <= set(rounds):
        row["ours"]["times as fast as the peer"] = ratios(rounds["peer"], rounds["ours"]).figures()
    for side in sides:
        side.model.zero_grad()
    return row


def one_pass(side: Side, x_BCTHW: Tensor, mode: str) -> None:
    """A forward pass, and for training also the backward pass into new gradients."""
    training = "training" in mode
    with torch.inference_mode(not training), autocast(x_BCTHW.device, mode.split()[-1]):
        logits = side.call(x_BCTHW)
    if training:
        labels = torch.zeros(len(x_BCTHW), dtype=torch.long, device=x_BCTHW.device)
        F.cross_entropy(logits.float(), labels).backward()
        side.model.zero_grad()


def behind(row: dict[str, Figures]) -> list[str]:
    """Where ours is not as good as the peer."""
    if "peer" not in row or "times as fast as the peer" not in row["ours"]:
        return []
    found = []
    times: Figures = row["ours"]["times as fast as the peer"]  # type: ignore[assignment]
    if not times["median"] >= 1.0:  # type: ignore[operator]
        found.append(f"{times['median']:.2f} times as fast as the peer")
    own, theirs = (row[name]["peak memory (MB)"] for name in ("ours", "peer"))
    if isinstance(own, float) and isinstance(theirs, float) and own > theirs:
        found.append(f"{own / theirs:.2f} times its memory")
    return found


def brief(row: dict[str, Figures]) -> str:
    """Clips per second and the ratio, in few characters."""
    own = row["ours"]
    if "clips/s" not in own:
        return "out of memory"
    times = own.get("times as fast as the peer")
    ratio = f" ({times['median']:.2f} x peer)" if isinstance(times, dict) else ""
    return f"{own['clips/s']['median']:.4g}/s{ratio}"  # type: ignore[index, call-overload]


def megabytes(count: float | None) -> float | None:
    """Of bytes."""
    return None if count is None else count / 1e6


def multiply_adds(model: nn.Module, shape: Shape) -> float:
    """Of one clip, as published."""
    from hybridvideo.models.contract import count_gmacs

    name, settings = model.name, model.settings()  # type: ignore[operator]
    from hybridvideo.models import create_model

    with torch.device("meta"):
        return count_gmacs(create_model(str(name), CLASSES, **settings), shape) * 1e9
