"""AdamW over the layer groups of a run's phases, and which of them train in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from hybridvideo.config.training import OptimConfig
from hybridvideo.engine.training.phases import Phase
from hybridvideo.errors import UserError, nearest

OTHERS = "others"  # in a phase's groups: those that are not named


class LayerRates:
    """Learning rate of each parameter that trains in some phase, as a share of the schedule's, by phase; 0: frozen.

    A network without `layer_groups` is one group, `model`. What does not require a gradient when the run begins never
    trains. Raises UserError for a phase that names an unknown group, or one that never trains.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, phases: Sequence[Phase]) -> None:
        groups = groups_of(model)
        self.trainable = {id(p): p for p in model.parameters() if p.requires_grad}
        self.stem = {id(p) for name, group in groups for p in group if name == "stem"}
        self.shares: dict[int, tuple[float, ...]] = {}
        for number, phase in enumerate(phases):
            check_groups(phase, number, groups)
        for name, parameters in groups:
            shares = tuple(share_of(name, phase, config) for phase in phases)
            self.shares.update({id(p): shares for p in parameters if p.requires_grad})

    def of(self, parameter: nn.Parameter) -> tuple[float, ...]:
        """Return a parameter's rates by phase; empty if it never trains."""
        shares = self.shares.get(id(parameter), ())
        return shares if any(shares) else ()

    def enter(self, phase: int) -> None:
        """Let exactly the parameters of a phase train."""
        for key, parameter in self.trainable.items():
            parameter.requires_grad_(bool(self.shares.get(key) and self.shares[key][phase]))

    def leave(self) -> None:
        """Restore which parameters can train to the state before the run."""
        for parameter in self.trainable.values():
            parameter.requires_grad_(True)

    def rest(self, model: nn.Module) -> None:
        """Put layers that are all frozen in this phase in evaluation mode, so that their statistics stay as well."""
        for layer in model.modules():
            own = [p for p in layer.parameters(recurse=False) if id(p) in self.trainable]
            if own and not any(p.requires_grad for p in own):
                layer.training = False


def groups_of(model: Any) -> list[tuple[str, list[nn.Parameter]]]:
    """Return the layer groups of a network."""
    if not hasattr(model, "layer_groups"):
        return [("model", list(model.parameters()))]
    groups: list[tuple[str, list[nn.Parameter]]] = model.layer_groups()
    return groups


def check_groups(phase: Phase, number: int, groups: list[tuple[str, list[nn.Parameter]]]) -> None:
    """Raise UserError for a phase that cannot train what it names."""
    names = {name: parameters for name, parameters in groups if parameters}
    for name, share in (phase.groups or {}).items():
        if name != OTHERS and name not in names:
            hint = nearest(name, [*names, OTHERS])
            raise UserError(f"phases[{number}].groups has {name!r}{hint}; give some of {', '.join([*names, OTHERS])}")
        if share and name != OTHERS and not any(p.requires_grad for p in names[name]):
            raise UserError(
                f"phases[{number}].groups trains {name}, which the model's settings freeze for the whole run; set "
                f"model.changes.{name}.frozen to false, and leave {name} out of the groups of the phases before"
            )


def share_of(group: str, phase: Phase, config: OptimConfig) -> float:
    """Return the learning rate of a layer group in a phase, as a share of the schedule's."""
    if phase.groups is None:
        return config.stem_lr_scale if group == "stem" else 1.0
    return phase.groups.get(group, phase.groups.get(OTHERS, 0.0))


def make_optimizer(model: nn.Module, config: OptimConfig, rates: LayerRates) -> torch.optim.AdamW:
    """Return AdamW over all parameters that ever train; it decides on the device whether to take a step."""
    groups = parameter_groups(model, config, rates)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def parameter_groups(model: Any, config: OptimConfig, rates: LayerRates) -> list[dict[str, Any]]:
    """Group parameters by rate and by decay: vectors, scalars and what model or settings exempt do not decay."""
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    exempt = exempt | exempted([name for name, _ in model.named_parameters()], config.no_decay)
    groups: dict[tuple[bool, bool, tuple[float, ...]], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if shares := rates.of(parameter):
            decays = parameter.ndim > 1 and name not in exempt
            groups.setdefault((id(parameter) in rates.stem, decays, shares), []).append(parameter)
    return [
        {"params": parameters, "shares": list(shares), "weight_decay": config.weight_decay if decays else 0.0}
        for (_, decays, shares), parameters in groups.items()
    ]


def exempted(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Return the names that match a pattern. Raises UserError for a pattern that matches none."""
    matching = {pattern: {name for name in names if fnmatch(name, pattern)} for pattern in patterns}
    for pattern, found in matching.items():
        if not found:
            raise UserError(
                f"optim.no_decay has {pattern!r}, which no parameter matches; they are named like {names[-1]}"
            )
    return set().union(*matching.values())


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, phase: int) -> None:
    """Set each group's rate: that of the schedule times its share."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["shares"][phase]


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Restore the optimizer's memory of each parameter; its settings stay. Raises ValueError if it does not fit."""
    settings = optimizer.state_dict()["param_groups"]
    members = [group["params"] for group in saved["param_groups"]]
    if [group["params"] for group in settings] != members:
        raise ValueError("its groups of parameters are not those of this run")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": settings})
