"""MixUp and CutMix on a batch, on the device it lies on; targets become shares of classes.

    MixUp (arXiv:1710.09412)     clip = share * clip + (1 - share) * partner
    CutMix (arXiv:1905.04899)    a box of the partner, the same in all frames, replaces that of the clip

B batch, C channels, T frames, H height, W width, K classes. One share and one box serve the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from hybridvideo.config.data import AugmentConfig
from hybridvideo.data.sampling import hash_seed


def soft_targets(labels_B: torch.Tensor, num_classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """(B,) class indices -> (B, K) float shares that sum to 1; `smoothing` is spread evenly over all classes.

    A negative label (padding, no label) gives a row of zeros, hence no loss.
    """
    known_B = labels_B >= 0
    classes_K = torch.arange(num_classes, device=labels_B.device)
    targets_BK = (labels_B.clamp(min=0)[:, None] == classes_K).float()  # one_hot would wait for the labels
    return (targets_BK * (1.0 - smoothing) + smoothing / num_classes) * known_B[:, None]


def batch_generator(seed: int, epoch: int, batch: int) -> torch.Generator:
    """Randomness of one global batch, the same in every process; on the CPU."""
    return torch.Generator().manual_seed(hash_seed(seed, epoch, batch, 1))


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A draw from Beta(alpha, alpha)."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _mixup(
    clips_BCTHW: torch.Tensor, others_BCTHW: torch.Tensor, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, float]:
    return torch.lerp(others_BCTHW, clips_BCTHW, share), share


def _cutmix(
    clips_BCTHW: torch.Tensor, others_BCTHW: torch.Tensor, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, float]:
    height, width = clips_BCTHW.shape[-2:]
    down, right = torch.rand(2, generator=generator).tolist()
    half = 0.5 * math.sqrt(1.0 - share)
    top, bottom = (round(min(max(down + side * half, 0.0), 1.0) * height) for side in (-1, 1))
    left, wide = (round(min(max(right + side * half, 0.0), 1.0) * width) for side in (-1, 1))
    mixed_BCTHW = clips_BCTHW.clone()
    mixed_BCTHW[..., top:bottom, left:wide] = others_BCTHW[..., top:bottom, left:wide]
    # The box is cut off at the frame's edge: what counts is what was really replaced.
    return mixed_BCTHW, 1.0 - (bottom - top) * (wide - left) / (height * width)


Mix = Callable[[torch.Tensor, torch.Tensor, float, torch.Generator], tuple[torch.Tensor, float]]
MIXES: dict[str, Mix] = {"mixup": _mixup, "cutmix": _cutmix}


Partners = Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]


class Mixing:
    """Mixes each clip of a batch with another one by the alphas of AugmentConfig; both set: one of them per
    batch.

    Called with float clips (B, C, T, H, W), targets (B, K), a CPU generator, and optionally a bool mask `ok`
    (B,): clips that are not ok neither change nor serve as partners. Gives mixed clips and targets. Partners
    come from the same batch; `partners(generator)` gives clips and targets of those of a batch that several
    processes share.
    """

    def __init__(self, augment: AugmentConfig) -> None:
        alphas = {"mixup": augment.mixup, "cutmix": augment.cutmix}
        self.alphas = {name: alpha for name, alpha in alphas.items() if alpha > 0}

    def __call__(
        self,
        clips_BCTHW: torch.Tensor,
        targets_BK: torch.Tensor,
        generator: torch.Generator,
        ok_B: torch.Tensor | None = None,
        partners: Partners | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.alphas:
            return clips_BCTHW, targets_BK
        names = sorted(self.alphas)
        name = names[int(torch.randint(len(names), (), generator=generator))]
        share = _beta(self.alphas[name], generator)
        if partners is None:
            others_B = own_partners(len(clips_BCTHW), generator, ok_B).to(clips_BCTHW.device)
            others_BCTHW, others_BK = clips_BCTHW[others_B], targets_BK[others_B]
        else:
            others_BCTHW, others_BK = partners(generator)
        mixed_BCTHW, share = MIXES[name](clips_BCTHW, others_BCTHW, share, generator)
        return mixed_BCTHW, torch.lerp(others_BK, targets_BK, share)


def own_partners(batch: int, generator: torch.Generator, ok_B: torch.Tensor | None) -> torch.Tensor:
    """(B,) index of each clip's partner: a permutation of the ok clips; others keep themselves."""
    partners_B = torch.arange(batch)
    usable = partners_B.clone() if ok_B is None else partners_B[ok_B.cpu()]
    partners_B[usable] = usable[torch.randperm(len(usable), generator=generator)]
    return partners_B
