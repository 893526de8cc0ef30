"""The arrows between the rooms, read from the imports, and the habits of the house."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from hybridvideo.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hybridvideo"
FILES = sorted(PACKAGE.rglob("*.py"))

BASE = {"errors", "text", "signals", "files", "folders", "config", "parsing", "documents"}
# room -> rooms it may import besides itself
ALLOWED = {
    "errors": set(),
    "text": set(),
    "signals": set(),
    "files": {"errors", "text"},
    "folders": {"files"},
    "parsing": {"errors", "text"},
    "documents": {"errors", "text", "parsing"},
    "config": {"errors"},
    "data": BASE,
    "models": BASE,
    "weights": BASE | {"models"},
    "report": BASE,
    "engine": BASE | {"data", "models", "weights"},
    "tasks": BASE | {"data", "models", "weights", "engine", "report"},
    "commands": BASE | {"tasks", "data"},
    "cli": BASE | {"commands", "tasks", "data"},
    "__init__": {"data", "engine", "models", "weights"},
    "__main__": {"cli"},
}


def room(file: Path) -> str:
    part = file.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imports(file: Path) -> list[str]:
    """Full names of imported modules, wherever in the file they are."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.append(node.module or "")
            names += [f"{node.module}.{alias.name}" for alias in node.names if node.module == "hybridvideo"]
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(file: Path) -> None:
    own = room(file)
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "hybridvideo" and len(parts) > 1:
            assert parts[1] == own or parts[1] in ALLOWED[own], f"{own} imports {name}"


def imported_modules() -> dict[str, set[str]]:
    """Module of the package -> modules of the package it imports, inside functions too."""
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
    return {name: imports_within(file, set(names)) - {name} for name, file in names.items()}


def imports_within(file: Path, modules: set[str]) -> set[str]:
    """`from package import module` imports that module; `from module import name` imports the one it names."""
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (full & modules) | ({str(node.module)} if full - modules else set())
    return found & modules


def test_no_module_imports_itself_through_others() -> None:
    try:
        TopologicalSorter(imported_modules()).prepare()
    except CycleError as error:
        pytest.fail("modules import each other: " + " -> ".join(reversed(error.args[1])))


def test_accelerate_appears_in_engine_and_tasks_only() -> None:
    rooms = {room(file) for file in FILES if any(name.split(".")[0] == "accelerate" for name in imports(file))}
    assert rooms <= {"engine", "tasks"}


def test_every_room_is_known() -> None:
    assert {room(file) for file in FILES} == set(ALLOWED)


# Rooms in which files of one name correspond: a network and the layout of its weights, or its variants; a command and
# what it calls.
CORRESPONDING = [
    {"models/published", "weights/layouts"},
    {"models/baselines", "weights/layouts"},
    {"models", "models/families"},
    {"models/parts", "models/families"},
    {"tasks", "report/pages"},
    {"tasks", "engine"},
]
SAME_NAME = {"__init__", "convert", "hybrid", "rows", "towers"}  # the others of one name


def test_the_name_of_a_file_says_which_one_it_is() -> None:
    rooms: dict[str, set[str]] = {}
    for file in FILES:
        rooms.setdefault(file.stem, set()).add(str(file.relative_to(PACKAGE).parent))
    twice = {name: found for name, found in rooms.items() if len(found) > 1 and found not in CORRESPONDING}
    assert set(twice) <= SAME_NAME, twice


def test_no_file_is_a_drawer_or_too_long() -> None:
    for file in FILES:
        assert file.stem not in ("utils", "util", "misc", "common", "helpers"), file
        assert file.read_text().count("\n") <= 400, file


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, hybridvideo; assert 'torch' not in sys.modules and 'av' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


HEAVY = {"torch", "torchvision", "timm", "av", "numpy", "pyarrow", "matplotlib", "accelerate", "safetensors", "rich"}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\n"
        "from hybridvideo.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as left: code = left.code\n"
        "print(*sorted(sys.modules), sep='\\n', file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *([command] if command else []), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith(f"usage: hybridvideo {command}")
    loaded = done.stderr.split("\n")
    assert "hybridvideo.cli" in loaded and not HEAVY & {name.split(".")[0] for name in loaded}


def test_public_names_are_there() -> None:
    import hybridvideo as hv

    assert set(hv.PUBLIC) == set(hv.__all__)
    for name in hv.__all__:
        assert getattr(hv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hv.nothing
