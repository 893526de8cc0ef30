"""The process that runs checks, one after the other, for as long as its device is sound.

A line of JSON comes in for each check, a line goes out with what was found. An exception is a finding; a device that no
longer computes, as after an illegal access, is reported too, and the process is then replaced.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import torch

from gpu_proof.finding import SCRATCH, Check, Context, Finding, plain
from gpu_proof.timing import free_memory

TRACE = 6000  # characters kept of a traceback


def serve(checks: Sequence[Check], device: torch.device, folder: Path, requests: IO[str], answers: IO[str]) -> None:
    """Answer until there are no more requests."""
    known = {check.name: check for check in checks}
    scratch = folder / SCRATCH
    scratch.mkdir(exist_ok=True)
    for line in requests:
        request = json.loads(line)
        deadline = time.monotonic() + request["seconds"]
        context = Context(device, device.type == "cpu", scratch, deadline)
        finding = answer(known[request["name"]], context)
        free_memory_safely(device)
        sound = is_sound(device)
        document = {name: plain(value) for name, value in asdict(finding).items()}
        answers.write(json.dumps({"finding": document, "sound": sound}) + "\n")
        answers.flush()
        if not sound:
            return


def answer(check: Check, context: Context) -> Finding:
    """What the check finds, whatever happens in it."""
    start = time.perf_counter()
    try:
        finding = prevented(check, context) or check.function(context)
    except torch.OutOfMemoryError as error:
        finding = Finding("failed", f"out of memory: {first_line(error)}", trace=trace_of())
    except ModuleNotFoundError as error:
        ours = (error.name or "").split(".")[0] in ("hybridvideo", "gpu_proof")
        finding = Finding("failed" if ours else "skipped", first_line(error), trace=trace_of())
    except Exception as error:
        finding = Finding("failed", f"{type(error).__name__}: {first_line(error)}", trace=trace_of())
    return replace(finding, seconds=time.perf_counter() - start)


def prevented(check: Check, context: Context) -> Finding | None:
    """Why the check cannot run here, if it cannot."""
    missing = [package for package in check.needs if importlib.util.find_spec(package) is None]
    if missing:
        return Finding("skipped", f"not installed: {', '.join(missing)}")
    if check.gpu_only and not context.cuda:
        return Finding("skipped", "needs a GPU")
    return None


def first_line(error: BaseException) -> str:
    """Of its message, shortened."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:300]


def trace_of() -> str:
    """The traceback of the exception being handled; the end of it if it is long."""
    return traceback.format_exc()[-TRACE:]


def free_memory_safely(device: torch.device) -> None:
    """As `free_memory`; a device that is not sound does not let go."""
    try:
        free_memory(device)
    except RuntimeError as error:
        print(f"memory could not be freed: {first_line(error)}", file=sys.stderr)


def is_sound(device: torch.device) -> bool:
    """Whether the device still computes."""
    try:
        return bool((torch.ones(8, device=device) + 1).sum().item() == 16)
    except RuntimeError:
        return False


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    from hybridvideo.report.environment import environment_facts

    facts: dict[str, Any] = environment_facts() | {"CUDA": torch.version.cuda or "none", "cuDNN": "none"}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "GPU": properties.name,
            "GPU memory (GiB)": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "driver": driver(),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    return facts


def driver() -> str:
    """Version of the driver, as nvidia-smi reports it."""
    import subprocess

    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not known"
    return done.stdout.splitlines()[0].strip()
