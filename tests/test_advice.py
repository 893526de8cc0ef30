"""What messages advise can be done: each option that one names is an option of that command."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from hybridvideo import cli
from hybridvideo.commands.options import CONFIG, PRINT, names_of, types_of

PACKAGE = Path(cli.__file__).parent
OPTION = re.compile(r"(?<![\w-])(?<!var\()--([a-z][\w-]*+(?:\.\w[\w-]*+)*+)(?!:\S)")  # no variables of a style sheet
# Options of other programs, of all commands, and the one that stands for many.
OTHERS = {"force-reinstall", "upgrade", "num_processes", "standalone", "nproc_per_node", "help", "version",
          "section.key"}  # fmt: skip


@cache
def options(command: str) -> set[str]:
    """Long options of a command, without the dashes."""
    names = {*names_of(types_of(cli.COMMANDS[command])), *((CONFIG, PRINT) if cli.COMMANDS[command].config else ())}
    return {name.removeprefix("--") for name in names}


def is_option(name: str, command: str) -> bool:
    """Whether a command has it; settings of a model are free below `changes`."""
    name = name.replace("-", "_")
    free = any(name.startswith(f"{known}.") for known in options(command) if known.endswith("changes"))
    return name in options(command) or free


def strings(file: Path) -> list[str]:
    """Every text of a source file; what a text is filled with is a brace."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    filled = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in filled for part in node.values}
    plain = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in parts]
    return [text for text in plain if isinstance(text, str)] + [
        "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values) for node in filled
    ]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_option_that_a_text_names_is_one(file: Path) -> None:
    for text in strings(file):
        for name in set(OPTION.findall(text)) - OTHERS:
            assert any(is_option(name, command) for command in cli.COMMANDS), f"--{name} in {text!r}"


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_command_that_a_text_spells_out_has_its_options(file: Path) -> None:
    for text in strings(file):
        for command, rest in re.findall(r"`?hybridvideo ([a-z]+)([^`\n]*)", text):
            if command in cli.COMMANDS:
                for name in set(OPTION.findall(rest)) - OTHERS:
                    assert is_option(name, command), f"--{name} of {command} in {text!r}"


# file -> the commands that print its messages
PRINTED_BY = {
    "tasks/support/table_job.py": ("predict", "extract"),
    "tasks/predict.py": ("predict",),
    "tasks/extract.py": ("extract",),
    "tasks/evaluate.py": ("evaluate",),
    "tasks/bench.py": ("bench",),
    "tasks/prepare.py": ("prepare",),
    "tasks/prepare_kinetics.py": ("prepare",),
    "tasks/convert.py": ("convert",),
    "tasks/support/weights_argument.py": ("predict", "extract", "evaluate"),
    "tasks/demo.py": ("demo",),
    "engine/training/loop.py": ("train",),
    "engine/training/assembly.py": ("train",),
    "engine/inference/rows.py": ("predict", "extract"),
}


@pytest.mark.parametrize("name", PRINTED_BY)
def test_a_message_names_options_of_the_command_that_prints_it(name: str) -> None:
    for text in strings(PACKAGE / name):
        said_of_another = re.sub(r"`?hybridvideo [a-z]+[^`\n]*", "", text)
        for option in set(OPTION.findall(said_of_another)) - OTHERS:
            assert all(is_option(option, command) for command in PRINTED_BY[name]), f"--{option} in {text!r}"


def test_a_message_about_any_weights_names_no_option_of_its_own() -> None:
    """predict, extract, evaluate, train and convert all print these."""
    for file in (PACKAGE / "weights").rglob("*.py"):
        for text in strings(file):
            assert not OPTION.findall(re.sub(r"`hybridvideo [a-z]+[^`\n]*`?", "", text)), text
