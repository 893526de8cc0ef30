"""The options of a command: its function's signature as a parser, and one clear line for what does not fit."""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, set_parsing_settings

from hybridvideo.config import TrainRun
from hybridvideo.errors import UserError, nearest
from hybridvideo.parsing import check_keys, one_line

Command: TypeAlias = Callable[..., int]


@dataclass(frozen=True)
class Spelling:
    """How a command's options are written. config_file: its settings are those of a TrainRun, from --config too."""

    positional: tuple[str, ...] = ()
    config_file: bool = False


def parse_options(program: str, command: Command, spelling: Spelling, arguments: list[str]) -> dict[str, Any]:
    """Options of a command as arguments of its function. UserError for what it does not have."""
    parser = make_parser(program, command, spelling)
    arguments = [with_underscores(argument) for argument in arguments]
    if spelling.config_file:
        arguments = with_run_config(arguments)
        check_config_files(arguments)
    try:
        parsed = parser.instantiate(parser.parse_args(arguments))
    except (ArgumentError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(explain(one_line(error), parser)) from error
    values = vars(parsed)
    config = values.pop("config", None)
    if not spelling.config_file:
        return values
    outside = {key: values.pop(key) for key in ("out", "resume", "name")}
    if config and outside["name"] is None:
        outside["name"] = os.path.splitext(os.path.basename(str(config[-1])))[0]
    return {"run": TrainRun(**values), **outside}


def make_parser(program: str, command: Command, spelling: Spelling) -> ArgumentParser:
    """The parser of a command, made from its function's signature."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    text = (inspect.getdoc(command) or "").split("\nArgs:")[0].strip()
    parser = ArgumentParser(prog=program, description=text, exit_on_error=False)
    skip: set[str | int] = set(spelling.positional)
    for positional in spelling.positional:
        parameter = inspect.signature(command).parameters[positional]
        optional = {} if parameter.default is inspect.Parameter.empty else {"nargs": "?", "default": parameter.default}
        parser.add_argument(positional, type=str, help=describe(command, positional), **optional)
    if spelling.config_file:
        parser.add_argument("--config", action=ActionConfigFile, help="YAML file with the settings of a run")
        parser.add_class_arguments(TrainRun)
        parser.add_argument("--resume", nargs="?", const="", metavar="RUN", help=describe(command, "resume"))
        skip |= {"run", "resume"}
    for flag, parameter in inspect.signature(command).parameters.items():
        if parameter.default is False:
            parser.add_argument(f"--{flag}", action="store_true", help=describe(command, flag))
            skip.add(flag)
    parser.add_function_arguments(command, skip=skip, as_group=False)
    return parser


def with_underscores(argument: str) -> str:
    """`--max-bad=1` as `--max_bad=1`: both spellings of an option are taken."""
    option, equals, value = argument.partition("=")
    return "--" + option[2:].replace("-", "_") + equals + value if option.startswith("--") else argument


def with_run_config(arguments: list[str]) -> list[str]:
    """`--resume RUN` stands for the settings of that run too. UserError where there are none, or a file beside them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", nargs="?")
    folder = parser.parse_known_args(arguments)[0].resume
    if not folder:
        return arguments
    if any(argument.partition("=")[0] == "--config" for argument in arguments):
        raise UserError(f"--resume {folder} takes the settings of that run; leave --config out")
    config = os.path.join(folder, "config.yaml")
    if not os.path.isfile(config):
        raise UserError(f"nothing to resume in {folder}: no run there; give the folder of a run")
    return ["--config", config, *arguments]


def describe(command: Command, argument: str) -> str:
    """The line of a docstring about one argument."""
    lines = (inspect.getdoc(command) or "").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.strip().startswith(f"{argument}:")), "")


def check_config_files(arguments: list[str]) -> None:
    """UserError for a missing file or the first key that no setting has, before the parser sees it."""
    for i, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag != "--config":
            continue
        path = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
        try:
            with open(path, encoding="utf-8") as file:
                settings = yaml.safe_load(file)
        except OSError as error:
            raise UserError(
                f"no config file {path!r} ({error.strerror}); give a YAML file such as those in configs/"
            ) from error
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not YAML: {one_line(error)}") from error
        if not isinstance(settings, dict):
            raise UserError(f"{path} holds no settings; give a mapping such as those in configs/")
        try:
            check_keys(TrainRun, settings)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def explain(message: str, parser: ArgumentParser) -> str:
    """A parser's message with the nearest option and the next step."""
    marker = "Unrecognized arguments: "
    if marker.lower() in message.lower():
        unknown = message[message.lower().index(marker.lower()) + len(marker) :].split()[0].split("=")[0]
        options = [option for action in parser._actions for option in action.option_strings]
        return f"unknown option {unknown}{nearest(unknown, options)}; `{parser.prog} --help` lists them"
    return f"{message}; see `{parser.prog} --help`"
