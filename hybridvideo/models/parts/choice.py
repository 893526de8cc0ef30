"""The input decides which of two paths is computed for it: convolution or attention, top-1 for each clip.

    training     both paths run, weighed by 1 and 0; gradients reach the decision as if it were soft (straight through),
                 with Gumbel noise on its scores if wanted, so that both paths are tried
    evaluation   each clip runs through its path alone

Straight through: Bengio et al. 2013. Gumbel-softmax: Jang et al. 2017; for choosing layers, Veit and Belongie 2018
(ConvNet-AIG).

    B batch   T H W grid   C channels   2 paths: convolution, attention
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hybridvideo.models.parts.gates import PooledMlp, pool
from hybridvideo.models.parts.place import Place
from hybridvideo.models.parts.shortcuts import literally, shortcuts_allowed
from hybridvideo.models.readings import Cost, Reading


class Choice(nn.Module):
    """One of two modules for each clip, or without time for each frame; (B, T, H, W, C) -> the same shape.

    Can be read: `path`, one-hot (B, 2) or (B, T, 2), whose mean over clips is the share of each path; `cost`, in
    training, (B): the expected multiply-adds of the decision as a share of the dearer path's, times `config.cost`.

    A compiler, which wants one graph, gets both paths also in evaluation. Operations are counted for the dearer path.
    """

    def __init__(self, place: Place, convolution: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.config, self.per_frame = place.stage.choice, not place.time
        self.paths = nn.ModuleList([convolution, attention])
        self.scores = PooledMlp(place.dim, max(1, place.dim // 4), 2)
        self.noise = GumbelNoise(1.0 if self.config.training == "gumbel" else 0.0)
        macs = [multiply_adds(path, place) for path in self.paths]
        self.prices = [count / max(macs) for count in macs]
        self.path, self.cost = Reading(), Cost()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        if not self.per_frame:
            return self.decide(x_BTHWC, lambda path_B2: path_B2)
        B, T, *_ = x_BTHWC.shape
        return self.decide(x_BTHWC.flatten(0, 1)[:, None], lambda path: path.unflatten(0, (B, T))).view(x_BTHWC.shape)

    def decide(self, x_BTHWC: Tensor, shown: Callable[[Tensor], Tensor]) -> Tensor:
        """The output of the path of each clip."""
        if x_BTHWC.is_meta or not shortcuts_allowed():
            dearer: Tensor = self.paths[self.prices.index(1.0)](x_BTHWC)
            return dearer
        scores_B2 = self.scores(pool(x_BTHWC, "clip")).flatten(1).float()
        if self.training:
            path_B2 = self.drawn(scores_B2)
            prices_2 = scores_B2.new_tensor(self.prices)
            costs = self.config.cost * (scores_B2.softmax(-1) @ prices_2)
            self.cost(shown(costs) if not self.per_frame else shown(costs).mean(1))
        else:
            path_B2 = one_hot(scores_B2)
        self.path(shown(path_B2.detach()))
        return self.weighed(x_BTHWC, path_B2) if self.static else self.chosen(x_BTHWC, path_B2)

    @property
    def static(self) -> bool:
        """Whether both paths are computed."""
        return self.training or torch.compiler.is_compiling()

    def drawn(self, scores_B2: Tensor) -> Tensor:
        """One-hot, with the gradient of the probabilities."""
        scores_B2 = self.noise(scores_B2)
        soft_B2 = (scores_B2 / self.config.temperature).softmax(-1)
        return one_hot(scores_B2) + (soft_B2 - soft_B2.detach())  # the bracket is exactly zero

    def weighed(self, x_BTHWC: Tensor, path_B2: Tensor) -> Tensor:
        """Both paths, times 1 and 0."""
        first, second = (path(x_BTHWC) for path in self.paths)
        first_B, second_B = (weight_B.view(-1, 1, 1, 1, 1).to(first.dtype) for weight_B in path_B2.unbind(1))
        return first_B * first + second_B * second

    def chosen(self, x_BTHWC: Tensor, path_B2: Tensor) -> Tensor:
        """Each clip through its path, with those that share it."""
        members = [weight_B.nonzero()[:, 0] for weight_B in path_B2.unbind(1)]
        for path, clips in zip(self.paths, members, strict=True):
            if len(clips) == len(x_BTHWC):
                out: Tensor = path(x_BTHWC)
                return out
        parts = [path(x_BTHWC[clips]) for path, clips in zip(self.paths, members, strict=True)]
        return torch.cat(parts)[torch.cat(members).argsort()]


class GumbelNoise(nn.Module):
    """Noise on scores, after which the highest is one drawn by their softmax; a `rate` of 0: none."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, scores: Tensor) -> Tensor:
        if not self.rate:
            return scores
        return scores - self.rate * torch.empty_like(scores).exponential_().clamp_min(1e-20).log()


def one_hot(scores_B2: Tensor) -> Tensor:
    """1 for the path with the higher score, 0 for the other."""
    second_B = scores_B2[:, 1] > scores_B2[:, 0]
    return torch.stack([~second_B, second_B], 1).to(scores_B2.dtype)


def multiply_adds(path: nn.Module, place: Place) -> float:
    """Of a clip of the standard input; 1 or more."""
    from torch.utils.flop_counter import FlopCounterMode

    on_meta = copy.deepcopy(path).to("meta").eval()
    with torch.no_grad(), literally(), FlopCounterMode(display=False) as counter:
        on_meta(torch.zeros(1, *place.grid, place.dim, device="meta"))
    return max(1.0, counter.get_total_flops() / 2)
