"""The environment a result was made in, as `environment.json` and every page show it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("hybridvideo", "torch", "torchvision", "av", "accelerate", "timm")


def environment_facts() -> dict[str, str]:
    """Return versions, processor and device as short texts. Never raises: what cannot be found out is `not known`."""
    facts = {package: package_version(package) for package in PACKAGES}
    return facts | {
        "FFmpeg of av": ffmpeg_version(),
        "device": device_name(),
        "cpu": f"{cpu_name()}, {cpu_cores()} cores",
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def package_version(package: str) -> str:
    """Return the installed version from a package's metadata, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def cpu_name() -> str:
    """Return the name of the processor, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def cpu_cores() -> int:
    """Return the cores this process may use; a container or a batch job often has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ffmpeg_version() -> str:
    """Return the version of the FFmpeg that av carries."""
    try:
        import av
    except Exception as fault:  # a broken wheel raises more than ImportError
        return f"not known ({type(fault).__name__})"
    return str(av.ffmpeg_version_info)


def device_name() -> str:
    """Return the GPUs, or what torch reports about the CPU."""
    try:
        import torch
    except Exception as fault:
        return f"not known ({type(fault).__name__})"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return ", ".join(names) + f" (CUDA {torch.version.cuda})"
    if torch.backends.mps.is_available():
        return "mps (Apple GPU)"
    return f"cpu ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"
