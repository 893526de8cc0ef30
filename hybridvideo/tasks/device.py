"""Which device a job runs on."""

from __future__ import annotations

import torch

from hybridvideo.errors import EnvironmentFault, UserError


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU where there is one. Errors say what there is."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise UserError(f"device is {name!r}; give auto, cpu, cuda or mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault("device cuda was asked for, but torch sees no GPU; `hybridvideo doctor` says more")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise EnvironmentFault("device mps was asked for, but this machine has none; use --device cpu")
    return torch.device(name)
