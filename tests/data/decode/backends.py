"""Which backends work on this machine: torchcodec may be installed and lack FFmpeg's shared libraries."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache

import pytest

from hybridvideo.data.decode import BACKENDS


@cache
def lacking(name: str) -> str:
    """Why a backend cannot work here; empty where it can, as PyAV must."""
    if name in ("auto", "pyav"):
        return ""
    if importlib.util.find_spec(name) is None:
        return f"{name} is not installed"
    try:
        importlib.import_module(BACKENDS[name][0])
        if name == "torchcodec":  # some releases load FFmpeg at the first call only
            importlib.import_module("torchcodec._core").get_ffmpeg_library_versions()
    except (ImportError, OSError, RuntimeError) as error:
        return f"{name} cannot be loaded: {str(error).splitlines()[0]}"
    return ""


def need(name: str) -> str:
    """The name of a backend, or the test is skipped."""
    if reason := lacking(name):
        pytest.skip(reason)
    return name


def working() -> list[str]:
    """The names of all backends that work here, "auto" first."""
    return [name for name in ("auto", *BACKENDS) if not lacking(name)]
