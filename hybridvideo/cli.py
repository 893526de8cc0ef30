"""The command line: `hybridvideo COMMAND ...`.

COMMANDS maps each name to a function whose signature is the command's options; what it does is imported when it is
called, so that `--help` is quick.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, set_parsing_settings

from hybridvideo.config import EvaluateData, TrainRun, Views
from hybridvideo.errors import HybridVideoError, UserError, nearest
from hybridvideo.parsing import check_keys, one_line

PROGRAM = "hybridvideo"
Precision = Literal["fp32", "bf16", "fp16"]


def demo(out: str = "runs/demo", seed: int = 0, seeds: int = 1) -> int:
    """Make a small set of videos, train on it, evaluate, classify, extract features, and write a report. No download.

    Args:
        out: folder for the videos, the runs and the report.
        seed: seed of the first run.
        seeds: train this many times, with seed, seed + 1, ...
    """
    from hybridvideo.tasks.demo import demo as task

    return task(out, seed, seeds)


def doctor() -> int:
    """Look at this installation: decoders, FFmpeg, torch, devices; for each fault the command that mends it."""
    from hybridvideo.tasks.doctor import doctor as task

    return task()


def models(pattern: str = "*") -> int:
    """List the models with parameters, GMACs and input shape.

    Args:
        pattern: only names that match, such as "hybrid_*".
    """
    from hybridvideo.tasks.models import models as task

    return task(pattern)


def train(run: TrainRun, out: str | None = None, resume: bool = False, name: str | None = None) -> int:
    """Train a model: --config FILE, and --section.key value to change settings of the file.

    Args:
        run: the settings.
        out: run folder; default: runs/NAME-seedSEED, numbered where it is taken.
        resume: go on with a run that was stopped: the one in --out, or the newest of that name.
        name: name of the run; default: that of the config file.
    """
    from hybridvideo.tasks.train import train as task

    return task(run, out, resume, name or "train")


def evaluate(
    run: str,
    data: EvaluateData = EvaluateData(),  # noqa: B008
    eval: Views = Views(),  # noqa: B008
    out: str | None = None,
    checkpoint: Literal["last", "best"] | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
) -> int:
    """Score a labelled list: multi-view top-1, top-5, mean-class accuracy, confusion matrix, scores of each video.

    Args:
        run: a run folder or a checkpoint folder.
        data: the list.
        eval: views of each video; default: those of the run.
        out: folder for results.json, scores.parquet and report.html; default: RUN/evaluation-LIST.
        checkpoint: of the run folder; default: the one its config keeps.
        device: auto, cpu, cuda or mps.
        precision: of the forward pass.
    """
    from hybridvideo.tasks.evaluate import evaluate as task

    return task(run, data, eval, out, checkpoint, device, precision)


def predict(
    run: str,
    source: str,
    out: str | None = None,
    top_k: int = 5,
    eval: Views = Views(),  # noqa: B008
    workers: int = 2,
    device: str = "auto",
    precision: Precision = "fp32",
    max_bad: float = 1.0,
) -> int:
    """Classify videos: the top classes of each, as a table here and in a file. Can be stopped and started again.

    Args:
        run: a run folder or a checkpoint folder.
        source: a folder of videos, a list of paths (one per line), a CSV or Parquet with a path column, or a video.
        out: .parquet, .csv or .jsonl file, or a folder; default: RUN/predictions.
        top_k: classes per video.
        eval: views of each video; default: those of the run.
        workers: decoding processes; 0 decodes in the main process.
        device: auto, cpu, cuda or mps.
        precision: of the forward pass.
        max_bad: share of the inputs that may be unreadable; beyond it the exit code is 3.
    """
    from hybridvideo.tasks.bulk import Job
    from hybridvideo.tasks.predict import predict as task

    return task(run, source, out, top_k, eval, Job(workers, device, precision, max_bad))


def extract(
    run: str,
    source: str,
    out: str | None = None,
    stage: str = "head",
    eval: Views = Views(),  # noqa: B008
    workers: int = 2,
    device: str = "auto",
    precision: Precision = "fp32",
    max_bad: float = 1.0,
) -> int:
    """Features of clips, one vector per clip, in a file. Can be stopped and started again.

    Args:
        run: a run folder or a checkpoint folder.
        source: a folder of videos, a list of paths (one per line), a CSV or Parquet with a path column, or a video.
        out: .parquet, .csv or .jsonl file, or a folder; default: RUN/features.
        stage: head (the features before the classifier), or stem, stage1, ... (averaged over time and space).
        eval: clips of each video, evenly spread; default: those of the run.
        workers: decoding processes; 0 decodes in the main process.
        device: auto, cpu, cuda or mps.
        precision: of the forward pass.
        max_bad: share of the inputs that may be unreadable; beyond it the exit code is 3.
    """
    from hybridvideo.tasks.bulk import Job
    from hybridvideo.tasks.extract import extract as task

    return task(run, source, out, stage, eval, Job(workers, device, precision, max_bad))


COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "doctor": doctor,
    "models": models,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "extract": extract,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is that of `errors`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Decoding processes share the cores with torch's threads: waiting threads that spin take them away from decoding.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return run_command(arguments)
    except HybridVideoError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on; leave without a complaint
        return 0


def run_command(arguments: list[str]) -> int:
    """Find the command, parse its options, call it."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("--version", "-V"):
        from importlib.metadata import version

        print(f"{PROGRAM} {version(PROGRAM)}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}{nearest(name, COMMANDS)}; `{PROGRAM} --help` lists them")
    return COMMANDS[name](**parse(name, rest))


def overview() -> str:
    """The text of `hybridvideo --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {inspect.getdoc(command).splitlines()[0]}"  # type: ignore[union-attr]
             for name, command in COMMANDS.items()]  # fmt: skip
    return "\n".join(
        [f"usage: {PROGRAM} COMMAND [OPTION ...]", "", "commands:", *lines, "", f"options: {PROGRAM} COMMAND --help"]
    )


@dataclass(frozen=True)
class Spelling:
    """How a command's options are written."""

    positional: tuple[str, ...] = ()
    config_file: bool = False


SPELLINGS = {
    "models": Spelling(("pattern",)),
    "train": Spelling(config_file=True),
    "evaluate": Spelling(("run",)),
    "predict": Spelling(("run", "source")),
    "extract": Spelling(("run", "source")),
}


def parse(name: str, arguments: list[str]) -> dict[str, Any]:
    """Options of a command as arguments of its function. UserError for what it does not have."""
    spelling = SPELLINGS.get(name, Spelling())
    parser = make_parser(name, spelling)
    arguments = [with_underscores(argument) for argument in arguments]
    if spelling.config_file:
        check_config_files(arguments)
    try:
        parsed = parser.instantiate(parser.parse_args(arguments))
    except (ArgumentError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(explain(one_line(error), parser, name)) from error
    values = vars(parsed)
    config = values.pop("config", None)
    if name != "train":
        return values
    outside = {key: values.pop(key) for key in ("out", "resume", "name")}
    if config and outside["name"] is None:
        outside["name"] = os.path.splitext(os.path.basename(str(config[-1])))[0]
    return {"run": TrainRun(**values), **outside}


def make_parser(name: str, spelling: Spelling) -> ArgumentParser:
    """The parser of a command, made from its function's signature."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    command = COMMANDS[name]
    text = (inspect.getdoc(command) or "").split("\nArgs:")[0].strip()
    parser = ArgumentParser(prog=f"{PROGRAM} {name}", description=text, exit_on_error=False)
    skip: set[str | int] = set(spelling.positional)
    for positional in spelling.positional:
        parameter = inspect.signature(command).parameters[positional]
        optional = {} if parameter.default is inspect.Parameter.empty else {"nargs": "?", "default": parameter.default}
        parser.add_argument(positional, type=str, help=describe(command, positional), **optional)
    if spelling.config_file:
        parser.add_argument("--config", action=ActionConfigFile, help="YAML file with the settings of a run")
        parser.add_class_arguments(TrainRun)
        skip.add("run")
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


def describe(command: Callable[..., int], argument: str) -> str:
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


def explain(message: str, parser: ArgumentParser, name: str) -> str:
    """A parser's message with the nearest option and the next step."""
    marker = "Unrecognized arguments: "
    if marker.lower() in message.lower():
        unknown = message[message.lower().index(marker.lower()) + len(marker) :].split()[0].split("=")[0]
        options = [option for action in parser._actions for option in action.option_strings]
        return f"unknown option {unknown}{nearest(unknown, options)}; `{PROGRAM} {name} --help` lists them"
    return f"{message}; see `{PROGRAM} {name} --help`"


if __name__ == "__main__":
    sys.exit(main())
