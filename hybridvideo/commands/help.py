"""The text of `--help`, written from signatures, dataclasses and their docstrings.

hybridvideo COMMAND --help            common options first, then every section
hybridvideo COMMAND --help SECTION    one section, such as optim
hybridvideo train --help hybrid       what `model.changes` of a hybrid takes; stages: what each of its stages does
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from hybridvideo.commands.options import CONFIG, PRINT, RESUME, Command
from hybridvideo.config.model import HybridConfig, ModelConfig, StageConfig
from hybridvideo.errors import UserError, nearest
from hybridvideo.parsing import alternatives, field_types

WIDEST = 100  # columns
LEFT = 30  # columns of the options; one that is wider has a line to itself
OWN = "options"  # the section of what belongs to the command alone


@dataclass(frozen=True)
class Option:
    """One option: `--clip.frames`, `N`, `Frames in a clip. (default: 16)`."""

    name: str
    metavar: str
    about: str


@dataclass(frozen=True)
class Section:
    """Options that belong together."""

    name: str
    about: str
    options: tuple[Option, ...]


def help_text(program: str, command: Command, section: str | None = None) -> str:
    """Return the help of a command, or of one of its sections. Raise UserError for an unknown section."""
    width = min(shutil.get_terminal_size((WIDEST, 0)).columns, WIDEST)
    sections = {part.name: part for part in sections_of(command)}
    if section is not None:
        sections |= {part.name: part for part in sections_of_changes(command)}
        if section not in sections:
            raise UserError(f"no section {section!r}{nearest(section, sections)}; give one of {', '.join(sections)}")
        return block(sections[section], width)
    about = inspect.getdoc(command.function) or ""
    parts = [usage(program, command, width), wrapped(about.split("\nArgs:")[0].strip(), width)]
    parts += [block(part, width) for part in (arguments_section(command), common_section(command, sections)) if part]
    parts += [block(part, width) for part in sections.values()]
    if len(sections) > 1:
        parts.append(wrapped(f"sections: {', '.join(sections)}", width) + f"\none of them: {program} --help SECTION")
    return "\n\n".join(parts)


# --- sections ---------------------------------------------------------------------------------------------------------


def sections_of(command: Command) -> Iterator[Section]:
    """Return the command's own options, then the settings, each dataclass a section."""
    own = [option_of(command, name) for name in command.parameters if is_own(command, name)]
    fixed = [Option("-h, --help", "", "Show this help, or that of one section.")]
    if command.config:
        several = "YAML file with the settings of a run. A later file overrides an earlier one; options override both."
        fixed = [Option(CONFIG, "FILE", several), Option("--print-config", "", PRINT_HELP), *fixed]
    yield Section(OWN, "", (*own, *loose_options(command), *fixed))
    for name, kind in settings_of(command).items():
        if is_dataclass(kind):
            prefix = "" if name in command.flat else f"{name}."
            default = command.parameters[name].default if name in command.parameters else None
            yield Section(name, summary(kind), tuple(field_options(kind, prefix, default)))
        elif (listed := next(iter(get_args(kind)), None)) and is_dataclass(listed):
            yield Section(name, f"a list, in YAML. {summary(listed)}", tuple(keys_of(listed)))


def sections_of_changes(command: Command) -> Iterator[Section]:
    """Return what `model.changes` may hold: long, and so only shown when asked for."""
    if ModelConfig in settings_of(command).values():
        of_stages = tuple(keys_of(StageConfig))
        others = tuple(key for key in keys_of(HybridConfig) if key.name != "stages")
        yield Section("hybrid", "settings of hybrids, keys of model.changes in YAML.", others)
        yield Section("stages", "a list, in model.changes of a hybrid. Blocks of one kind on the grid.", of_stages)


PRINT_HELP = "Print all settings as a config file, and do nothing else."
assert PRINT == "--print_config"


def settings_of(command: Command) -> dict[str, Any]:
    """Return the dataclasses of a command by the name of their section; those of a config file one by one."""
    kinds: dict[str, Any] = {}
    for name, kind in command.types.items():
        kinds |= field_types(kind) if name == command.config else {name: kind}
    return kinds


def loose_options(command: Command) -> Iterator[Option]:
    """Return settings of a config file that are in no section, such as --seed."""
    if command.config:
        kind = command.types[command.config]
        for option, hint in zip(field_options(kind, "", None), field_types(kind).values(), strict=True):
            if not is_dataclass(hint):
                yield option


def common_section(command: Command, sections: Mapping[str, Section]) -> Section | None:
    """Return the options that most calls need."""
    options = {option.name: option for part in sections.values() for option in part.options}
    chosen = tuple(options[f"--{name}"] for name in command.common)  # keys of a list such as phases have no dashes
    return Section("common", "", chosen) if chosen else None


def arguments_section(command: Command) -> Section | None:
    """Return the positional arguments."""
    about = argument_docs(command)
    options = tuple(Option(name.upper(), "", about.get(name, "")) for name in command.positional)
    return Section("arguments", "", options) if options else None


def is_own(command: Command, name: str) -> bool:
    """Return whether an argument is an option of the command, rather than positional or a section."""
    return name not in (*command.positional, *command.flat) and not is_dataclass(command.types[name])


# --- options ----------------------------------------------------------------------------------------------------------


def option_of(command: Command, name: str) -> Option:
    """Return the option for an argument of the function."""
    default = command.parameters[name].default
    metavar = "[RUN]" if f"--{name}" == RESUME else metavar_of(command.types[name], default)
    about = with_default(argument_docs(command).get(name, ""), default)
    return Option("--" + name.replace("_", "-"), metavar, about)


def field_options(kind: Any, prefix: str, default: Any) -> Iterator[Option]:
    """Return the options of a dataclass. default: an instance with the defaults, if not those of the class."""
    about = field_docs(kind)
    for field in fields(kind):
        hint = field_types(kind)[field.name]
        if is_dataclass(default) and not isinstance(default, type):
            value = getattr(default, field.name)
        else:
            value = field.default_factory() if field.default_factory is not MISSING else field.default
        name = prefix + (field.name if prefix else field.name.replace("_", "-"))
        metavar = metavar_of(hint, None if prefix else value)
        yield Option(f"--{name}", metavar, with_default(about[field.name], value))


def keys_of(kind: Any, prefix: str = "") -> Iterator[Option]:
    """The keys of a mapping in YAML, those of mappings inside it with a dot."""
    for field, about in zip(fields(kind), field_docs(kind).values(), strict=True):
        hint = field_types(kind)[field.name]
        if is_dataclass(hint):
            yield from keys_of(hint, f"{prefix}{field.name}.")
        else:
            value = field.default_factory() if field.default_factory is not MISSING else field.default
            yield Option(prefix + field.name, metavar_of(hint, None), with_default(about, value))


def metavar_of(hint: Any, default: Any) -> str:
    """Return the placeholder of a value: N, X, TEXT, a|b, [X, X]; empty for a flag."""
    if default is False:
        return ""
    kinds = [kind for kind in alternatives(hint) if kind is not NoneType]
    return "|".join(map(word_for, kinds))


def word_for(kind: Any) -> str:
    """Return a type as a placeholder."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        choices = "|".join(map(str, inner))
        return choices if len(choices) <= 2 * LEFT else "NAME"
    if origin is list or inner[1:] == (...,):
        return f"[{word_for(inner[0])}, ...]"
    if origin is tuple:
        return f"[{', '.join(map(word_for, inner))}]"
    if origin is dict or is_dataclass(kind):
        return "{KEY: VALUE, ...}"
    return {int: "N", float: "X", str: "TEXT", bool: "true|false"}.get(kind, "VALUE")


def with_default(about: str, default: Any) -> str:
    """Append the default to a description, unless it is empty, a flag, or described already."""
    nothing = (inspect.Parameter.empty, MISSING, None, False)
    if any(default is each for each in nothing) or default in ("", {}) or "default:" in about:
        return about
    text = f"[{', '.join(map(str, default))}]" if isinstance(default, list | tuple) else str(default)
    return f"{about} (default: {text})".strip()


# --- docstrings -------------------------------------------------------------------------------------------------------


def argument_docs(command: Command) -> dict[str, str]:
    """Return the description of each argument in a command's docstring."""
    about = (inspect.getdoc(command.function) or "").partition("\nArgs:\n")[2]
    found = re.findall(r"^    (\w+): (.+?)(?=^    \w|\Z)", about, re.MULTILINE | re.DOTALL)
    return {name: capitalised(" ".join(text.split())) for name, text in found}


@cache
def field_docs(kind: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, including its bases."""
    docs = dict.fromkeys(field_types(kind), "")
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            docs |= dict(documented(tree.body))
    return docs


def documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Return the names of fields with the text below them."""
    for statement, after in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    yield statement.target.id, " ".join(text.split())


def summary(kind: Any) -> str:
    """Return the first line of a dataclass's docstring."""
    return (inspect.getdoc(kind) or "").split("\n")[0]


def capitalised(text: str) -> str:
    """Capitalise a text, unless it begins with a term such as `auto,`."""
    return text if re.match(r"\S*[,.:`]", text.split(" ")[0]) else text[:1].upper() + text[1:]


# --- layout -----------------------------------------------------------------------------------------------------------


def usage(program: str, command: Command, width: int) -> str:
    """Return the line that shows how to call the command."""
    words = [
        name.upper() if command.parameters[name].default is inspect.Parameter.empty else f"[{name.upper()}]"
        for name in command.positional
    ]
    config = ["[--config FILE]", "[--SECTION.KEY VALUE ...]"] if command.config else []
    return wrapped(" ".join([f"usage: {program}", *words, *config, "[OPTION ...]"]), width)


def block(section: Section, width: int) -> str:
    """Format a section with its options in two columns."""
    title = f"{section.name}: {section.about}" if section.about else f"{section.name}:"
    lines = [wrapped(title, width)]
    for option in section.options:
        left = f"  {option.name} {option.metavar}".rstrip()
        text = textwrap.wrap(option.about, width - LEFT) or [""]
        first = [f"{left:<{LEFT}}{text.pop(0)}".rstrip()] if len(left) < LEFT - 1 else [left]
        lines += [*first, *(f"{'':<{LEFT}}{line}" for line in text if line)]
    return "\n".join(lines)


def wrapped(text: str, width: int) -> str:
    """Wrap each paragraph to the width."""
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.split("\n\n"))
