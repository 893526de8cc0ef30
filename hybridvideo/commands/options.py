"""The options of a command: the arguments of its function, and one clear error line for whatever does not fit.

    --clip.frames 8   --clip.frames=8   --clip '{frames: 8, stride: 2}'   --model.changes.stem.stride 8   --max-bad 0.1

Options override config files wherever they appear on the line, and a deeper option overrides a shallower one; each
changes only what it names. Values are data: nothing is imported or called because of one.
"""

from __future__ import annotations

import inspect
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import yaml

from hybridvideo.documents import load_scalar, load_yaml, read_yaml
from hybridvideo.errors import UserError, nearest
from hybridvideo.parsing import alternatives, converted, field_types, is_mapping, merged, parsed, plain, short_repr

Types: TypeAlias = dict[str, Any]  # of options without a dot in them, by name
Written: TypeAlias = list[tuple[str, str | None]]  # options, "--clip.frames", and values, "8" or missing

CONFIG, PRINT, RESUME = "--config", "--print_config", "--resume"


@dataclass(frozen=True)
class Command:
    """A function of this package, and how its arguments are written.

    positional: positional arguments. flat: arguments whose fields are options of their own (`workers`, not
    `reading.workers`). config: the flat argument that `--config FILE` fills. common: options that help lists first.
    """

    function: Callable[..., int]
    positional: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    config: str | None = None
    common: tuple[str, ...] = ()

    @property
    def types(self) -> Types:
        """Return the types of the function's arguments."""
        types = get_type_hints(self.function)
        types.pop("return", None)
        return types

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters


def parse_options(program: str, command: Command, arguments: list[str]) -> dict[str, Any]:
    """Return the arguments for a command's function. Raise UserError for an option it does not have."""
    words, options = split(arguments, flags_of(command), {RESUME} if command.config else set())
    ours = (CONFIG, PRINT) if command.config else ()
    types = types_of(command)
    check_options(options, types, ours, program)
    configs = config_files(options) if command.config else []
    given = positional_values(words, command.positional, program)
    for path in configs:
        given = merged(given, read_config(path, command.types[command.config or ""]))
    settings = [(option, str(text)) for option, text in options if option not in ours]
    for option, text in sorted(settings, key=lambda written: written[0].count(".")):
        given = merged(given, nested(option, read_value(type_at(types, option), option, text)))
    if configs:
        given = {"name": Path(configs[-1]).stem, **given}
    values = arguments_of(program, command, given)
    if command.config and PRINT in dict(options):
        print(yaml.safe_dump(plain(values[command.config]), sort_keys=False, allow_unicode=True), end="")
        raise SystemExit(0)
    return values


# --- what a command takes ---------------------------------------------------------------------------------------------


def types_of(command: Command) -> Types:
    """Return options without a dot in their names, with their types; a section such as `clip` is one of them."""
    types: Types = {}
    for name, kind in command.types.items():
        if name in command.flat:
            types |= field_types(kind)
        elif name not in command.positional:
            types[name] = kind
    return types


def flags_of(command: Command) -> set[str]:
    """Return the options that take no value."""
    own = {name for name, parameter in command.parameters.items() if parameter.default is False}
    shared = {
        name
        for flat in command.flat
        for name, kind in field_types(command.types[flat]).items()
        if kind is bool and getattr(command.types[flat], name, None) is False
    }
    return {f"--{name}" for name in own | shared} | ({PRINT} if command.config else set())


def type_at(types: Types, option: str) -> Any:
    """Return the type of an option's value, at any depth; None if there is no such option."""
    first, *keys = option.removeprefix("--").split(".")
    found = types.get(first)
    for key in keys:
        mapping = next(filter(is_mapping, alternatives(found)), None)
        if get_origin(mapping) is dict:
            found = get_args(mapping)[1]
        elif found is not Any:
            found = None if mapping is None else field_types(mapping).get(key)
    return found if all(keys) else None


def names_of(types: Types, prefix: str = "--") -> Iterator[str]:
    """Return all options: sections and their settings."""
    for name, kind in types.items():
        yield prefix + name
        if isinstance(kind, type) and is_dataclass(kind):
            yield from names_of(field_types(kind), f"{prefix}{name}.")


def check_options(options: Written, types: Types, ours: tuple[str, ...], program: str) -> None:
    """Raise UserError for the first option that the command does not have, or that lacks its value."""
    for option, text in options:
        if option not in ours and (type_at(types, option) is None or not option.startswith("--")):
            near = nearest(option, [*names_of(types), *ours])
            raise UserError(f"unknown option {option}{near}; `{program} --help` lists them")
        if text is None:
            raise UserError(f"option {option} needs a value; give {option} VALUE")
        if option == PRINT and text != "true":
            raise UserError(f"option {option} takes no value, but {short_repr(text)} is given; leave the value out")


# --- what was written -------------------------------------------------------------------------------------------------


def split(arguments: list[str], flags: set[str], alone: set[str]) -> tuple[list[str], Written]:
    """Split arguments into words, and options with their values. --max-bad and --max_bad are the same option.

    flags: options that take no value. alone: those that may come without one; it is then empty.
    """
    words: list[str] = []
    options: Written = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        if argument == "--":
            return words + list(rest), options
        if argument == "-" or not argument.startswith("-"):
            words.append(argument)
            continue
        name, equals, text = argument.partition("=")
        option = "--" + name[2:].replace("-", "_") if name.startswith("--") else name
        value: str | None = text if equals else "true" if option in flags else "" if option in alone else None
        if not equals and option not in flags and rest and not rest[0].startswith("--"):
            value = rest.popleft()
        options.append((option, value))
    return words, options


def positional_values(words: list[str], names: tuple[str, ...], program: str) -> dict[str, Any]:
    """Return the words by the names of their arguments."""
    if len(words) > len(names):
        raise UserError(f"unexpected argument {words[len(names)]!r}; see `{program} --help`")
    return dict(zip(names, words, strict=False))


def config_files(options: Written) -> list[str]:
    """Return the config files in order, or that of the run named by `--resume RUN`. Raise UserError for both."""
    configs = [str(text) for option, text in options if option == CONFIG]
    run = dict(options).get(RESUME)
    if not run:
        return configs
    if configs:
        raise UserError(f"--resume {run} takes the settings of that run; leave --config out")
    config = os.path.join(run, "config.yaml")
    if not os.path.isfile(config):
        raise UserError(f"nothing to resume in {run}: no run there; give the folder of a run")
    return [config]


def read_config(path: str, kind: type) -> dict[str, Any]:
    """Return the settings of a config file, which must be valid by itself."""
    advice = "give a YAML file such as those in configs/"
    if not os.path.exists(path):
        raise UserError(f"no config file {path!r}; {advice}")
    settings = read_yaml(path, advice)
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings; give a mapping such as those in configs/")
    parsed(kind, settings, path)
    return settings


def read_value(kind: Any, option: str, text: str) -> Any:
    """Return the plain value of an option: text if text is expected, otherwise read as YAML."""
    kinds = alternatives(kind)
    if text == "null" and NoneType in kinds:
        return None
    choices = [choice for part in kinds if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        return next((choice for choice in choices if str(choice) == text), text)
    holds_more = any(is_mapping(part) or get_origin(part) in (list, tuple) for part in kinds)
    if str in kinds and not (holds_more and text.startswith("[")):
        return text
    if holds_more or text[:1] in ("[", "{", '"', "'"):
        return load_yaml(text, f"{option} {short_repr(text)}", "give a value such as 8, [1, 2] or {key: value}")
    return load_scalar(text)


def nested(option: str, value: Any) -> dict[str, Any]:
    """Return {"clip": {"frames": 8}} for --clip.frames and 8."""
    for key in reversed(option.removeprefix("--").split(".")):
        value = {key: value}
    return dict(value)


# --- the arguments ----------------------------------------------------------------------------------------------------


def arguments_of(program: str, command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of the function, converted to their types."""
    values = {}
    for name, parameter in command.parameters.items():
        kind, default = command.types[name], parameter.default
        if name in command.flat:
            values[name] = filled_from(kind, default, given)
        elif name in given:
            value = merged(plain(default), given[name]) if is_section(default, given[name]) else given[name]
            values[name] = converted(kind, plain(value), name)
        elif default is inspect.Parameter.empty:
            raise UserError(f"{name.upper()} is missing; see `{program} --help`")
        else:
            values[name] = default
    return values


def filled_from(kind: Any, default: Any, given: Mapping[str, Any]) -> Any:
    """Build a flat argument: fields from the options of their names, the others from the default."""
    own = {name: given[name] for name in field_types(kind) if name in given}
    return parsed(kind, merged(plain(default), own) if is_dataclass(default) else own)


def is_section(default: Any, value: Any) -> bool:
    """Return whether a value changes some fields of a default."""
    return is_dataclass(default) and isinstance(value, Mapping)
