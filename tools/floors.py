"""Print the lowest releases pyproject.toml allows, each pinned: `name==floor`, as a constraints file for pip.

    python tools/floors.py > floors.txt
    pip install --constraint floors.txt --editable '.[test]'

Needs Python alone, so that it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
FLOOR = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9.]+)")  # a constraint carries no extras


def floors(pyproject: str, extra: str) -> list[str]:
    """The dependencies of the package and of one extra, at their floors. Raises ValueError for one without a floor."""
    project = tomllib.loads(pyproject)["project"]
    return [_pinned(dependency) for dependency in project["dependencies"] + project["optional-dependencies"][extra]]


def _pinned(dependency: str) -> str:
    found = FLOOR.match(dependency)
    if found is None:
        raise ValueError(
            f"pyproject.toml: {dependency!r} has no floor; write the lowest release that passes: NAME>=X.Y"
        )
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(floors(PYPROJECT.read_text(encoding="utf-8"), extra="test")) + "\n")
