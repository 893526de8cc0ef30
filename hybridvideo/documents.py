"""YAML and JSON of others as plain data, within bounds: no tag, key or reference in one makes anything else of it.

Refused, in one line: what is no ordinary file, too large, not UTF-8, or nested too deeply; a key given twice; NaN and
infinities; YAML's tags (`!!python/...`) and aliases (`*name`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml

from hybridvideo.errors import UserError
from hybridvideo.parsing import check_plain, short_repr
from hybridvideo.text import one_line, shown

LARGEST_YAML, LARGEST_JSON = 2**19, 2**24  # bytes; the parsers need about 10 seconds for the worst of such files
LARGEST_LINES = 2**29  # bytes of a JSONL file
LONGEST_REASON = 200  # characters of what a parser says


# --- files ------------------------------------------------------------------------------------------------------------


def read_yaml(path: str | Path, advice: str) -> Any:
    """The content of a YAML file. UserError, which ends with `advice`, where it cannot be read."""
    return load_yaml(read_text(path, advice, LARGEST_YAML), str(path), advice)


def read_json(path: str | Path, advice: str, *, largest: int = LARGEST_JSON, any_name: bool = False) -> Any:
    """The content of a JSON file of at most `largest` bytes; otherwise as above. any_name: as for `load_json`."""
    return load_json(read_text(path, advice, largest), str(path), advice, any_name=any_name)


def read_json_object(path: str | Path, advice: str) -> dict[str, Any]:
    """The content of a JSON file that holds a mapping."""
    content = read_json(path, advice)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {short_repr(content)}, not a JSON object; {advice}")
    return content


def read_json_lines(path: str | Path, advice: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a JSONL file that hold a mapping, and the mappings; a line that a crash has spoilt is left out."""
    for line in read_bytes(path, advice, LARGEST_LINES).decode("utf-8", "replace").split("\n"):
        with contextlib.suppress(UserError):
            if isinstance(row := load_json(line, str(path), advice), dict):
                yield line, row


def read_text(path: str | Path, advice: str, largest: int) -> str:
    """The text of an ordinary file of at most `largest` bytes, in UTF-8."""
    try:
        text = read_bytes(path, advice, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text: byte {error.start} is not UTF-8; {advice}") from None
    if "\0" in text:
        raise UserError(f"{path} is not text: there are NUL characters in it; {advice}")
    return text


def read_bytes(path: str | Path, advice: str, largest: int) -> bytes:
    """The content of an ordinary file of at most `largest` bytes."""
    try:
        status = os.stat(path)  # before it is opened: a pipe that nobody writes to would be waited for
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'no ordinary file'}; {advice}")
        if status.st_size > largest:
            raise UserError(f"{path} has {status.st_size} bytes, more than the {largest} that are read; {advice}")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; {advice}") from None


# --- texts ------------------------------------------------------------------------------------------------------------


def load_yaml(text: str, where: str, advice: str) -> Any:
    """The plain data of a YAML text."""
    try:
        content = yaml.load(text, PlainLoader)  # makes less than YAML's safe loader
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where} is not YAML: {reason(error)}; {advice}") from None
    except RecursionError:
        raise UserError(f"{where} is not YAML that is read: it nests too deeply; {advice}") from None
    return checked(content, where)


def load_json(text: str | bytes, where: str, advice: str, *, any_name: bool = False) -> Any:
    """The plain data of a JSON text. any_name: of files, too, whose names are no UTF-8, which Python holds as such."""
    try:
        content = json.loads(text, object_pairs_hook=without_twins, parse_constant=refuse_constant)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {reason(error)}; {advice}") from None
    except RecursionError:
        raise UserError(f"{where} is no JSON that is read: it nests too deeply; {advice}") from None
    return checked(content, where, any_name)


def load_scalar(text: str) -> Any:
    """What a text without brackets and quotes is in YAML: null, true, 3, 0.5, or the text itself, whole."""
    loader = PlainLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return loader.construct_object(yaml.ScalarNode(tag, text))


def checked(content: Any, where: str, any_name: bool = False) -> Any:
    """The content, if it is plain data."""
    try:
        check_plain(content)
        json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape" if any_name else "strict")
    except UnicodeEncodeError:
        raise UserError(f"{where}: half a character (a lone surrogate) in a text; remove it") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return content


def reason(error: Exception) -> str:
    """What a parser says is wrong, short and on one line."""
    return shown(one_line(error))[:LONGEST_REASON]


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError for a key that appears twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(twice([name for name, _ in pairs]))
    return content


def twice(names: list[str]) -> str:
    """What is wrong with names of which one is there more than once."""
    return f"the key {short_repr(Counter(names).most_common(1)[0][0])} appears twice"


def refuse_constant(name: str) -> NoReturn:
    """ValueError for NaN and infinities, which JSON does not know."""
    raise ValueError(f"{name} is no number; give a finite one")


TAG = "tag:yaml.org,2002:"


class PlainLoader(yaml.SafeLoader):
    """YAML's null, booleans, numbers, text, lists and mappings, and nothing else.

    All that it takes for a number its writer puts in quotes where it is text, so that what was written comes back.
    """

    yaml_constructors: ClassVar = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (None, *(TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")))
    }
    yaml_implicit_resolvers: ClassVar = {}  # type: ignore[misc]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As YAML's, but for aliases: a few lines of them can stand for more than fits any memory."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As YAML's, but for a key that appears twice, which it would take the last of."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.MarkedYAMLError(problem=twice(names), problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


NUMBER = list("-+.0123456789")
for _kind, _pattern, _first in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$", list("yYnNtTfFoO")),
    ("int", r"[-+]?(0|[1-9][0-9_]{0,30}|0x[0-9a-fA-F]{1,16})$", NUMBER),
    ("float", r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?$", NUMBER),
):
    PlainLoader.add_implicit_resolver(TAG + _kind, re.compile(_pattern), _first)
