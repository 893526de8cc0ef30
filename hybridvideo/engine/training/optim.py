"""Parameter groups, AdamW, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from hybridvideo.config.training import OptimConfig
from hybridvideo.models.contract import VideoModel


def make_optimizer(model: VideoModel, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that train; each group carries `lr_scale`."""
    groups = parameter_groups(model, config)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def parameter_groups(model: VideoModel, config: OptimConfig) -> list[dict[str, object]]:
    """Stem or not, decayed or not: vectors, scalars and what the model names do not decay."""
    stem = {id(parameter) for name, group in model.layer_groups() if name == "stem" for parameter in group}
    spared = model.no_weight_decay()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and name not in spared
            groups.setdefault((id(parameter) in stem, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_scale": config.stem_lr_scale if in_stem else 1.0,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (in_stem, decays), parameters in groups.items()
    ]


def learning_rate(step: int, steps: int, warmup_steps: int, config: OptimConfig) -> float:
    """Linear from 0 over the warm-up, then half a cosine down to `final_lr` of the peak at the last step."""
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same rate for all groups but for their scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
