"""Untrusted YAML and JSON as plain data, within bounds: no tag, key or reference turns into anything else.

Refused, in one line: anything but a regular file; files that are too large, not UTF-8 or nested too deeply; repeated
keys; NaN and infinities; YAML's tags (`!!python/...`) and aliases (`*name`).
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

LARGEST_YAML, LARGEST_JSON = 2**19, 2**24  # bytes; parsing the worst such file takes about 10 seconds
LARGEST_LINES = 2**29  # bytes of a JSONL file
LONGEST_REASON = 200  # characters of a parser's message


# --- files ------------------------------------------------------------------------------------------------------------


def read_yaml(path: str | Path, advice: str) -> Any:
    """Read a YAML file. Raise UserError, ending with `advice`, if that is impossible."""
    return load_yaml(read_text(path, advice, LARGEST_YAML), str(path), advice)


def read_json(path: str | Path, advice: str, *, largest: int = LARGEST_JSON, any_name: bool = False) -> Any:
    """Read a JSON file of at most `largest` bytes; otherwise like `read_yaml`. any_name: as for `load_json`."""
    return load_json(read_text(path, advice, largest), str(path), advice, any_name=any_name)


def read_json_object(path: str | Path, advice: str) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    content = read_json(path, advice)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {short_repr(content)}, not a JSON object; {advice}")
    return content


def read_json_lines(path: str | Path, advice: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines of a JSONL file that hold an object, with the object. Lines damaged by a crash are skipped."""
    for line in read_bytes(path, advice, LARGEST_LINES).decode("utf-8", "replace").split("\n"):
        with contextlib.suppress(UserError):
            if isinstance(row := load_json(line, str(path), advice), dict):
                yield line, row


def read_text(path: str | Path, advice: str, largest: int) -> str:
    """Read a regular file of at most `largest` bytes as UTF-8."""
    try:
        text = read_bytes(path, advice, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text: byte {error.start} is not UTF-8; {advice}") from None
    if "\0" in text:
        raise UserError(f"{path} is not text: it contains NUL characters; {advice}")
    return text


def read_bytes(path: str | Path, advice: str, largest: int) -> bytes:
    """Read a regular file of at most `largest` bytes."""
    try:
        status = os.stat(path)  # before opening it: opening a pipe waits for a writer
        if not stat.S_ISREG(status.st_mode):
            raise UserError(
                f"{path} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}; {advice}"
            )
        if status.st_size > largest:
            raise UserError(f"{path} has {status.st_size} bytes, more than the limit of {largest}; {advice}")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; {advice}") from None


# --- texts ------------------------------------------------------------------------------------------------------------


def load_yaml(text: str, where: str, advice: str) -> Any:
    """Parse YAML into plain data."""
    try:
        content = yaml.load(text, PlainLoader)  # constructs less than YAML's safe loader
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where} is not YAML: {reason(error)}; {advice}") from None
    except RecursionError:
        raise UserError(f"{where} cannot be read: it is nested too deeply; {advice}") from None
    return checked(content, where)


def load_json(text: str | bytes, where: str, advice: str, *, any_name: bool = False) -> Any:
    """Parse JSON into plain data. any_name: accept names of files that are not UTF-8, as Python represents them."""
    try:
        content = json.loads(text, object_pairs_hook=without_repeats, parse_constant=refuse_constant)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {reason(error)}; {advice}") from None
    except RecursionError:
        raise UserError(f"{where} cannot be read: it is nested too deeply; {advice}") from None
    return checked(content, where, any_name)


def load_scalar(text: str) -> Any:
    """The YAML value of a text without brackets or quotes: null, true, 3, 0.5, or the text itself."""
    loader = PlainLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return loader.construct_object(yaml.ScalarNode(tag, text))


def checked(content: Any, where: str, any_name: bool = False) -> Any:
    """Return the content if it is plain data; raise UserError otherwise."""
    try:
        check_plain(content)
        json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape" if any_name else "strict")
    except UnicodeEncodeError:
        raise UserError(f"{where}: a text contains a lone surrogate (half a character); remove it") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return content


def reason(error: Exception) -> str:
    """Return a parser's message, short and on one line."""
    return shown(one_line(error))[:LONGEST_REASON]


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; raise ValueError for a repeated key."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(twice([name for name, _ in pairs]))
    return content


def twice(names: list[str]) -> str:
    """Return the message for names of which one is repeated."""
    return f"the key {short_repr(Counter(names).most_common(1)[0][0])} appears twice"


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError for NaN and infinities, which are not JSON."""
    raise ValueError(f"{name} is not a number; give a finite one")


TAG = "tag:yaml.org,2002:"


class PlainLoader(yaml.SafeLoader):
    """YAML's null, booleans, numbers, text, lists and mappings, and nothing else.

    Text that it would read as a number is quoted by YAML's writer, so what was written comes back.
    """

    yaml_constructors: ClassVar = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (None, *(TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")))
    }
    yaml_implicit_resolvers: ClassVar = {}  # type: ignore[misc]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases: a few lines of them can expand to more than any memory holds."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse repeated keys, of which YAML would silently take the last."""
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
