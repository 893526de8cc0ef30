"""Plain data (YAML, JSON, command-line values) into the dataclasses of `config`, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from hybridvideo.errors import UserError, nearest

T = TypeVar("T")


def parsed(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from nested plain data, each value checked against its type; UserError names the nearest key."""
    check_keys(kind, values, where)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        return kind(**vars(parser.instantiate(parser.parse_object(plain(values)))))
    except (ArgumentError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}{': ' if where else ''}{one_line(error)}") from error


def changed(config: T, changes: Mapping[str, Any]) -> T:
    """A copy of a dataclass with some fields changed; a mapping for a nested dataclass changes only what it names."""
    return parsed(type(config), merged(asdict(config), plain(changes)))  # type: ignore[call-overload]


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with `new` on top, mappings merged."""
    both = dict(old)
    for key, value in new.items():
        nested = isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
        both[key] = merged(old[key], value) if nested else value
    return both


def plain(value: Any) -> Any:
    """Dataclasses as dicts and tuples as lists, all the way down: what YAML and JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def check_keys(kind: Any, values: Mapping[str, Any], where: str = "") -> None:
    """UserError for the first key, at any depth, that is no field of its dataclass."""
    hints = get_type_hints(kind)
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in hints:
            allowed = ", ".join(hints)
            raise UserError(f"unknown setting {path}{nearest(str(key), hints)}; {kind.__name__} has {allowed}")
        inner = [hint for hint in (hints[key], *get_args(hints[key])) if is_dataclass(hint)]
        items = value if isinstance(value, list | tuple) else [value]
        for item in items if inner else []:
            if isinstance(item, Mapping):
                check_keys(inner[0], item, path)


def one_line(error: BaseException) -> str:
    """The message of an exception without its line breaks."""
    return " ".join(str(error).split())
