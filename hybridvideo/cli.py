"""The command line: `hybridvideo COMMAND ...` calls the function that `commands.table` lists under that name."""

from __future__ import annotations

import inspect
import os
import re
import sys
from typing import Any

from hybridvideo.commands.help import help_text
from hybridvideo.commands.options import parse_options
from hybridvideo.commands.table import COMMANDS
from hybridvideo.errors import HybridVideoError, Preempted, UserError, nearest
from hybridvideo.files import leave_output
from hybridvideo.text import one_line, shown

PROGRAM = "hybridvideo"
HELP = ("-h", "--help")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; `hybridvideo.errors` lists the codes."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    # Decoding processes share the cores with torch's threads: waiting threads that spin take them away from decoding.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if text := answer(name):
            print(text)
            code = 0
        else:
            code = COMMANDS[name].function(**parse(name, rest))
        sys.stdout.flush()
        return code
    except Preempted as stop:
        print(shown(one_line(stop)), file=sys.stderr)
        return stop.exit_code
    except HybridVideoError as error:
        print(f"error: {shown(one_line(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except OSError as error:
        return leave_output(error)


def answer(name: str) -> str | None:
    """Return the text to print instead of running a command. Raise UserError for a command that does not exist."""
    if name in (*HELP, "help"):
        return overview()
    if name in ("--version", "-V"):
        from importlib.metadata import version

        return f"{PROGRAM} {version(PROGRAM)}"
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}{nearest(name, COMMANDS)}; `{PROGRAM} --help` lists them")
    return None


def overview() -> str:
    """Return the text of `hybridvideo --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {short_about(command.function)}" for name, command in COMMANDS.items()]
    usage = f"usage: {PROGRAM} COMMAND [OPTION ...]"
    return "\n".join([usage, "", "commands:", *lines, "", f"options of a command: {PROGRAM} COMMAND --help"])


def short_about(function: object) -> str:
    """Return what a command does: its first sentence, up to a colon or semicolon."""
    return re.split(r"[.:;]( |$)", (inspect.getdoc(function) or "").split("\n")[0])[0]


def parse(name: str, arguments: list[str]) -> dict[str, Any]:
    """Options of a command as arguments of its function. Raise UserError for what it does not have.

    Raises SystemExit after `--help` or `--help SECTION`, with the text printed.
    """
    program, command = f"{PROGRAM} {name}", COMMANDS[name]
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    asked = next((place for place, word in enumerate(ours) if word.partition("=")[0] in HELP), None)
    if asked is None:
        return parse_options(program, command, arguments)
    section = ours[asked].partition("=")[2] or next((word for word in ours[asked + 1 :] if word[:1] != "-"), None)
    print(help_text(program, command, section))
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
