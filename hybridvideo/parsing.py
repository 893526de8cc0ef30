"""Strict conversion of plain data into the dataclasses of `config`: settings are data and stay data.

Plain data is what JSON can hold: text, numbers, true, false, null, lists, and mappings with text for keys. Each value
is checked against the type of its field, and nothing that a value names is imported, called or opened.

    parsed(TrainRun, {"clip": {"frames": 8}})      missing keys get defaults, unknown ones an error
    changed(config, {"stem": {"stride": 8}})       the rest stays, at any depth; a list replaces a list
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hybridvideo.errors import UserError, nearest
from hybridvideo.text import one_line, shown

T = TypeVar("T")

NOT_DATA = ("class_path", "init_args")  # how other programs instantiate classes from a file
EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]{1,5}")  # 1e-4, which YAML reads as text
DEEPEST = 32  # levels of nested mappings and lists
LARGEST = 2**63  # no tensor and no file holds larger integers
MOST = 1e300  # of a number
LONGEST_SAID = 60  # characters of a value in a message
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}


def parsed(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from nested plain data. Raise UserError, beginning with `where`, for the first mistake."""
    try:
        result: T = converted(kind, plain(values))
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None
    return result


def changed(config: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of a dataclass with some fields changed; a mapping changes only what it names, at any depth."""
    return parsed(type(config), merged(asdict(config), plain(changes)))  # type: ignore[call-overload]


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with `new` on top, mappings merged."""
    both = dict(old)
    for key, value in new.items():
        nested = isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
        both[key] = merged(old[key], value) if nested else value
    return both


def plain(value: Any, depth: int = 0) -> Any:
    """Convert dataclasses to dicts and tuples to lists, all the way down: what YAML and JSON can hold."""
    if depth > 2 * DEEPEST:
        raise UserError(f"the settings are nested too deeply; at most {DEEPEST} levels are read")
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    return [plain(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value


# --- a value for a type -----------------------------------------------------------------------------------------------


def converted(hint: Any, value: Any, path: str = "") -> Any:
    """Convert a plain value to the type of a field at `path`. UserError gives place, value and what is allowed."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        check_plain(value, path)
        return value
    if origin in (Union, UnionType):
        fitting = next((kind for kind in alternatives(hint) if has_shape(kind, value)), None)
        return converted(fitting, value, path) if fitting else refuse(hint, value, path)
    if not has_shape(hint, value):
        refuse(hint, value, path)
    if is_dataclass(hint):
        return filled(hint, value, path)
    if origin is dict:
        check_keys(value, path)
        return {key: converted(inner[1], item, f"{path}.{key}") for key, item in value.items()}
    if origin in (list, tuple):
        kinds = inner if origin is tuple and inner[1:] != (...,) else inner[:1] * len(value)
        if len(kinds) != len(value):
            refuse(hint, value, path)
        items = zip(kinds, value, strict=True)
        return origin(converted(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(items))
    check_plain(value, path)
    return float(value) if hint is float else value


def filled(kind: Any, values: Mapping[str, Any], path: str) -> Any:
    """Build a dataclass. Its own UserErrors pass through; other errors get the place."""
    hints = field_types(kind)
    check_keys(values, path)
    for key in values:
        if key not in hints:
            raise UserError(
                f"unknown setting {joined(path, key)}{nearest(key, hints)}; {kind.__name__} has {', '.join(hints)}"
            )
    if missing := [name for name in required(kind) if name not in values]:
        raise UserError(f"{joined(path, missing[0])} is missing; give {wanted(hints[missing[0]])}")
    arguments = {key: converted(hints[key], item, joined(path, key)) for key, item in values.items()}
    try:
        return kind(**arguments)
    except UserError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path or kind.__name__} cannot be used: {one_line(error)}") from error


def has_shape(hint: Any, value: Any) -> bool:
    """Return whether a value can have a type, ignoring its items. An integer may serve as a number; true may not."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if origin in (list, tuple):
        return isinstance(value, list | tuple)
    if is_mapping(hint):
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        if isinstance(value, str) and EXPONENT.fullmatch(value):
            value = float(value)
        return isinstance(value, int | float) and abs(value) < MOST  # not of NaN
    return isinstance(value, hint)


def is_mapping(hint: Any) -> bool:
    """Return whether values of a type are written as mappings: it is a dataclass or a dict."""
    return is_dataclass(hint) or get_origin(hint) is dict


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer; true and false are not."""
    return has_shape(int, value)


@cache
def field_types(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def required(kind: Any) -> Iterable[str]:
    """Return the names of the fields without a default."""
    return (field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING)


# --- data and nothing else --------------------------------------------------------------------------------------------


def check_plain(value: Any, path: str = "", depth: int = 0) -> None:
    """Raise UserError for the first value, at any depth, that is not plain data or names a class to instantiate."""
    if depth > DEEPEST:
        raise UserError(f"{path[:LONGEST_SAID]}... is nested too deeply; at most {DEEPEST} levels are read")
    if isinstance(value, Mapping):
        check_keys(value, path)
        for key, item in value.items():
            check_plain(item, joined(path, key), depth + 1)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_plain(item, f"{path}[{i}]", depth + 1)
    elif isinstance(value, str):
        if "\0" in value:
            raise UserError(f"{path or 'a text'} contains a NUL character; remove it")
    elif isinstance(value, int):
        if abs(value) >= LARGEST:
            raise UserError(f"{path or 'a number'} is too large; give an integer of at most 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{path or 'a number'} is {value}; give a finite number")
    elif value is not None:
        raise UserError(f"{path or 'a value'} is a {type(value).__name__}; give text, a number, a list or a mapping")


def check_keys(values: Mapping[Any, Any], path: str) -> None:
    """Raise UserError for a key that is not text, or that would name a class to instantiate."""
    for key in values:
        if not isinstance(key, str) or "\0" in key:
            raise UserError(f"{joined(path, short_repr(key))} is not the name of a setting; keys must be text")
        if key in NOT_DATA:
            raise UserError(f"{joined(path, key)}: settings are data and never name a class; remove {key}")


# --- words ------------------------------------------------------------------------------------------------------------


def refuse(hint: Any, value: Any, path: str) -> None:
    """UserError gives place, value and what is allowed."""
    choices = [choice for choice in get_args(hint) if isinstance(choice, str)] if get_origin(hint) is Literal else []
    near = nearest(value, choices) if isinstance(value, str) else ""
    raise UserError(f"{path or 'the value'} is {short_repr(value)}{near}; give {wanted(hint)}")


def wanted(hint: Any) -> str:
    """Describe a type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(wanted(kind) for kind in inner)
    if origin is Literal:
        return f"{'one of ' if len(inner) > 1 else ''}{', '.join(map(str, inner))}"
    if origin is tuple and inner[1:] != (...,):
        return f"a list of {len(inner)}, each {wanted(inner[0])}"
    if origin in (list, tuple):
        return f"a list, each item {wanted(inner[0])}"
    return WORDS.get(hint, "a mapping of settings")


def short_repr(value: Any) -> str:
    """Return a value for a message, shortened."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= LARGEST:
        return "an integer of more than 64 bits"
    names = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return names[value]
    if isinstance(value, Mapping | list | tuple) and value:
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)}"
    text = shown(repr(value))
    return text if len(text) <= LONGEST_SAID else text[: LONGEST_SAID - 3] + "..."


def joined(path: str, key: str) -> str:
    """Return the place of a key."""
    return f"{path}.{key}" if path else key
