"""The lowest releases, read from pyproject.toml."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("floors", ROOT / "tools" / "floors.py")
assert SPEC is not None and SPEC.loader is not None
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def pyproject(*dependencies: str) -> str:
    return f"[project]\ndependencies = {list(dependencies)}\n[project.optional-dependencies]\ntest = ['pytest>=8']\n"


def test_extras_and_markers_are_left_out_of_a_pin() -> None:
    text = pyproject("jsonargparse[signatures]>=4.47", "decord>=0.6; platform_machine == 'x86_64'", "ruff>=0.17,<0.18")
    assert tool.floors(text, "test") == ["jsonargparse==4.47", "decord==0.6", "ruff==0.17", "pytest==8"]


@pytest.mark.parametrize("dependency", ["torch", "torch<3", "torch==2.11"])
def test_a_dependency_without_a_floor_is_named(dependency: str) -> None:
    with pytest.raises(ValueError, match=f"'{dependency}' has no floor"):
        tool.floors(pyproject(dependency), "test")


def test_every_dependency_of_the_package_and_its_tests_has_a_floor() -> None:
    pins = tool.floors((ROOT / "pyproject.toml").read_text(encoding="utf-8"), "test")
    names = [pin.partition("==")[0] for pin in pins]
    assert {"torch", "torchvision", "pytest"} <= set(names) and len(set(names)) == len(names)
