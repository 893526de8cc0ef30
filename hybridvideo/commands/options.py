"""The options of a command, which are the arguments of its function, and one clear line for what does not fit.

    --clip.frames 8   --clip.frames=8   --clip '{frames: 8, stride: 2}'   --model.changes.stem.stride 8   --max-bad 0.1

Options come on top of the config files, wherever they stand, and a deeper option on top of a shallower one; each
changes only what it names. jsonargparse writes the help. It reads no value, since it would make classes of some.
"""

from __future__ import annotations

import inspect
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from hybridvideo.config.training import TrainRun
from hybridvideo.documents import load_scalar, load_yaml, read_yaml
from hybridvideo.errors import UserError, nearest
from hybridvideo.parsing import alternatives, converted, field_types, is_mapping, merged, parsed, plain, short_repr

Command: TypeAlias = Callable[..., int]
Types: TypeAlias = dict[str, Any]  # of options without a dot in them, by name
Written: TypeAlias = list[tuple[str, str | None]]  # options, "--clip.frames", and values, "8" or missing

CONFIG, PRINT, RESUME = "--config", "--print_config", "--resume"


@dataclass(frozen=True)
class Spelling:
    """How a command's options are written. config_file: its settings are those of a TrainRun, from --config too."""

    positional: tuple[str, ...] = ()
    config_file: bool = False


def parse_options(program: str, command: Command, spelling: Spelling, arguments: list[str]) -> dict[str, Any]:
    """Options of a command as arguments of its function. UserError for what it does not have."""
    if {"-h", "--help"} & set(arguments):
        make_parser(program, command, spelling).print_help()
        raise SystemExit(0)
    words, options = split(arguments, flags_of(command, spelling), {RESUME} if spelling.config_file else set())
    ours = (CONFIG, PRINT) if spelling.config_file else ()
    types = types_of(command, spelling)
    check_options(options, types, ours, program)
    configs = config_files(options) if ours else []
    settings = [(option, str(text)) for option, text in options if option not in ours]
    given = positional_values(words, spelling.positional, program)
    for path in configs:
        given = merged(given, read_config(path))
    for option, text in sorted(settings, key=lambda written: written[0].count(".")):
        given = merged(given, nested(option, read_value(type_at(types, option), option, text)))
    values = arguments_of(program, command, as_run(given, configs) if spelling.config_file else given)
    if ours and PRINT in dict(options):
        print(yaml.safe_dump(plain(values["run"]), sort_keys=False, allow_unicode=True), end="")
        raise SystemExit(0)
    return values


# --- what a command takes ---------------------------------------------------------------------------------------------


def types_of(command: Command, spelling: Spelling) -> Types:
    """The options without a dot in them, and their types; the settings of a run are among them, each section one."""
    types = get_type_hints(command)
    for name in ("return", *spelling.positional, *(("run",) if spelling.config_file else ())):
        types.pop(name, None)
    return {**types, **(field_types(TrainRun) if spelling.config_file else {})}


def flags_of(command: Command, spelling: Spelling) -> set[str]:
    """The options that need no value."""
    parameters = inspect.signature(command).parameters.items()
    flags = {f"--{name}" for name, parameter in parameters if parameter.default is False}
    return flags | ({PRINT} if spelling.config_file else set())


def type_at(types: Types, option: str) -> Any:
    """The type of an option's value, however deep; None where there is no such option."""
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
    """All options, sections and their settings."""
    for name, kind in types.items():
        yield prefix + name
        if isinstance(kind, type) and is_dataclass(kind):
            yield from names_of(field_types(kind), f"{prefix}{name}.")


def check_options(options: Written, types: Types, ours: tuple[str, ...], program: str) -> None:
    """UserError for the first option that the command does not have, or that lacks its value."""
    for option, text in options:
        if option not in ours and (type_at(types, option) is None or not option.startswith("--")):
            near = nearest(option, [*names_of(types), *ours])
            raise UserError(f"unknown option {option}{near}; `{program} --help` lists them")
        if text is None:
            raise UserError(f"option {option} needs a value; give {option} VALUE")


# --- what was written -------------------------------------------------------------------------------------------------


def split(arguments: list[str], flags: set[str], alone: set[str]) -> tuple[list[str], Written]:
    """Words, and options with their values. Both spellings of an option are taken, --max-bad and --max_bad.

    flags: options that take no value. alone: those that may stand without one, which is then empty.
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
    """The words by the names of their arguments."""
    if len(words) > len(names):
        raise UserError(f"nothing takes the argument {words[len(names)]!r}; see `{program} --help`")
    return dict(zip(names, words, strict=False))


def config_files(options: Written) -> list[str]:
    """The config files, in their order; that of the run, where `--resume RUN` names one. UserError for both."""
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


def read_config(path: str) -> dict[str, Any]:
    """The settings of a config file, which must be right by themselves."""
    advice = "give a YAML file such as those in configs/"
    if not os.path.exists(path):
        raise UserError(f"no config file {path!r}; {advice}")
    settings = read_yaml(path, advice)
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings; give a mapping such as those in configs/")
    parsed(TrainRun, settings, path)
    return settings


def read_value(kind: Any, option: str, text: str) -> Any:
    """The plain value that an option's text stands for: text where text is wanted, else as in YAML."""
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
    """--clip.frames and 8 as {"clip": {"frames": 8}}."""
    for key in reversed(option.removeprefix("--").split(".")):
        value = {key: value}
    return dict(value)


# --- the arguments ----------------------------------------------------------------------------------------------------


def as_run(given: Mapping[str, Any], configs: list[str]) -> dict[str, Any]:
    """The settings of a run together, as `run`; its name, unless given, is that of the last config file."""
    run = {name: given[name] for name in field_types(TrainRun) if name in given}
    name = {"name": Path(configs[-1]).stem} if configs else {}
    return {**name, **{key: value for key, value in given.items() if key not in run}, "run": run}


def arguments_of(program: str, command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of the function, each of its type."""
    types = get_type_hints(command)
    values = {}
    for name, parameter in inspect.signature(command).parameters.items():
        default = parameter.default
        if name not in given and default is inspect.Parameter.empty:
            raise UserError(f"{name.upper()} is missing; see `{program} --help`")
        value = given.get(name, default)
        if is_dataclass(default) and isinstance(value, Mapping):
            value = merged(plain(default), value)
        place = "" if types[name] is TrainRun else name
        values[name] = converted(types[name], plain(value), place) if name in given else default
    return values


# --- help -------------------------------------------------------------------------------------------------------------


def make_parser(program: str, command: Command, spelling: Spelling) -> ArgumentParser:
    """The parser that writes a command's help, made from its function's signature."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    text = (inspect.getdoc(command) or "").split("\nArgs:")[0].strip()
    parser = ArgumentParser(prog=program, description=text)
    if spelling.config_file:
        about = "YAML file with the settings of a run; of several, a later one on top; options come on top of all"
        parser.add_argument(CONFIG, metavar="FILE", help=about)
        parser.add_argument(PRINT, action="store_true", help="print all settings as a config file, and do nothing")
        parser.add_class_arguments(TrainRun)
    types = get_type_hints(command)
    for name, parameter in inspect.signature(command).parameters.items():
        optional = {} if parameter.default is inspect.Parameter.empty else {"default": parameter.default}
        if name in spelling.positional:
            optional |= {"nargs": "?"} if optional else {}
            parser.add_argument(name, type=str, help=describe(command, name), **optional)
        elif parameter.default is False:
            parser.add_argument(f"--{name}", action="store_true", help=describe(command, name))
        elif f"--{name}" == RESUME:
            parser.add_argument(RESUME, nargs="?", metavar="RUN", help=describe(command, name))
        elif types[name] is not TrainRun:
            parser.add_argument(f"--{name}", type=types[name], help=describe(command, name), **optional)
    return tidied(parser)


def tidied(parser: ArgumentParser) -> ArgumentParser:
    """The parser without what jsonargparse would take and this does not: a file for a section, items for a list."""
    for action in parser._actions:
        action.option_strings = [option for option in action.option_strings if not option.endswith("+")]
        if action.help == "Path to a configuration file.":
            action.metavar, action.help = "{KEY: VALUE, ...}", "Several of these at once."
    return parser


def describe(command: Command, argument: str) -> str:
    """What a docstring says of one argument, on one line."""
    about = (inspect.getdoc(command) or "").partition("\nArgs:\n")[2]
    found = re.search(rf"^    {argument}: (.+?)(?=^    \w|\Z)", about, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""
