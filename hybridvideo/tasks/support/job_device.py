"""Which device a job runs on."""

from __future__ import annotations

import os
import re

import torch
from accelerate import PartialState

from hybridvideo.errors import EnvironmentFault, UserError

FOR_ACCELERATE = "ACCELERATE_TORCH_DEVICE"  # read by PartialState, which else takes the first GPU


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the first GPU, if there is one. Errors list what is available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    found = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", name)
    if found is None:
        raise UserError(f"device is {name!r}; give auto, cpu, mps, cuda or cuda:NUMBER")
    kind, index = found[1], found[2]
    if kind == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault("device cuda was asked for, but torch sees no GPU; run `hybridvideo doctor` for details")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise EnvironmentFault("device mps was asked for, but this machine has none; use --device cpu")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if index is not None and int(index) >= count:
        there = f"{kind}:0" if count == 1 else f"{kind}:0 to {kind}:{count - 1}"
        raise UserError(f"no device {name}; this machine has {there}")
    return torch.device(name)


def process_state(name: str) -> PartialState:
    """Return this process's place among all, on the device of that name.

    Raises UserError for a numbered device if a launcher has started several processes, each with its own.
    """
    device = pick_device(name)
    if device.index is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"device {name} is one device, and the launcher started {os.environ['WORLD_SIZE']} processes; "
            "leave --device out, or choose with CUDA_VISIBLE_DEVICES"
        )
    if device.type != "cuda" or device.index is None:
        return PartialState(cpu=device.type == "cpu")
    torch.cuda.set_device(device)
    before = os.environ.get(FOR_ACCELERATE)
    os.environ[FOR_ACCELERATE] = str(device)
    try:
        return PartialState()
    finally:
        if before is None:
            del os.environ[FOR_ACCELERATE]
        else:
            os.environ[FOR_ACCELERATE] = before
