"""The command line: `hybridvideo COMMAND ...`.

COMMANDS maps each name to a function whose signature is the command's options; what it does is imported when it is
called, so that `--help` is quick.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

from hybridvideo.commands.options import Spelling, parse_options
from hybridvideo.config.data import AugmentConfig, ClipConfig, EvaluateData, FrameConfig
from hybridvideo.config.evaluation import Views
from hybridvideo.config.jobs import Precision
from hybridvideo.config.training import TrainRun
from hybridvideo.errors import HybridVideoError, Preempted, UserError, nearest
from hybridvideo.files import leave_output
from hybridvideo.text import one_line, shown

PROGRAM = "hybridvideo"


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


def train(run: TrainRun, out: str | None = None, resume: str | None = None, name: str | None = None) -> int:
    """Train a model: --config FILE, and --section.key value to change settings of the file.

    Args:
        run: the settings.
        out: run folder; default: runs/NAME-seedSEED, numbered where it is taken.
        resume: go on with a run that was stopped: `--resume RUN` needs nothing but its folder; without a folder it
            is the one in --out, or the newest of that name.
        name: name of the run; default: that of the config file.
    """
    from hybridvideo.tasks.support.launched import launched

    if resume and out:
        raise UserError(f"--resume {resume} and --out {out} both name a run folder; give one of them")
    with launched():
        from hybridvideo.tasks.train import run_training as task

        return task(run, resume or out, resume is not None, name or "train")


def convert(
    source: str,
    out: str,
    model: str | None = None,
    changes: dict[str, Any] | None = None,
    labels: str | None = None,
    frames: int | None = None,
    size: int | None = None,
    overwrite: bool = False,
) -> int:
    """Turn published weights into a checkpoint folder, with their classes, normalisation, clips and views.

    Args:
        source: a file of weights, a Hugging Face folder, torchvision:NAME[.WEIGHTS] or hf:OWNER/REPO.
        out: the checkpoint folder.
        model: name of the model; default: the one that the tensors show.
        changes: settings of the model that the tensors do not show, such as --changes.heads 8.
        labels: names of the classes, a file or `kinetics400`; default: those of the source, or of Kinetics-400.
        frames: of a clip, where another number than that of the weights is wanted, or they do not show it.
        size: rows and columns of a frame, likewise.
        overwrite: replace the checkpoint that is in the folder, if there is nothing else in it.
    """
    from hybridvideo.tasks.convert import convert as task
    from hybridvideo.tasks.convert import wanted

    return task(source, out, wanted(model, changes, labels, frames, size), overwrite)


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
        run: a run or checkpoint folder, or published weights, as `convert` takes them.
        data: the list.
        eval: views of each video; default: those of the run.
        out: folder for results.json, scores.parquet and report.html; default: evaluation-LIST-CLIPSxCROPS in RUN, or
            in runs/foreign/NAME for published weights, numbered where it holds another evaluation.
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
    deadline: float = 120.0,
    quarantine: str | None = None,
    join: bool = False,
    overwrite: bool = False,
) -> int:
    """Classify videos: the top classes of each, as a table here and in a file. Can be stopped and started again.

    Args:
        run: a run or checkpoint folder, or published weights, as `convert` takes them.
        source: a folder of videos, a list of paths (one per line), a CSV or Parquet with a path column, or a video.
        out: .parquet, .csv or .jsonl file, or a folder; default: predictions in RUN, or in runs/foreign/NAME.
            `-` writes JSON lines to standard output and keeps nothing.
        top_k: classes per video.
        eval: views of each video; default: those of the run.
        workers: decoding processes; 0 decodes in the main process.
        device: auto, cpu, cuda or mps.
        precision: of the forward pass.
        max_bad: share of the inputs that may be unreadable; beyond it the exit code is 3.
        deadline: seconds that reading one video may take; one that hangs, or kills its decoder twice, is a row.
        quarantine: table of `scan`: what it found unusable is not opened; its row says what the scan said.
        join: work beside others that make the same table, also on other machines; each takes what no other has.
        overwrite: make all rows anew, also where --out holds the table of another job.
    """
    from hybridvideo.tasks.predict import predict as task
    from hybridvideo.tasks.support.table_job import Job

    job = Job(workers, device, precision, max_bad, deadline, quarantine, join, overwrite)
    return task(run, source, out, top_k, eval, job)


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
    deadline: float = 120.0,
    quarantine: str | None = None,
    join: bool = False,
    overwrite: bool = False,
) -> int:
    """Features of clips, one vector per clip, in a file. Can be stopped and started again.

    Args:
        run: a run or checkpoint folder, or published weights, as `convert` takes them.
        source: a folder of videos, a list of paths (one per line), a CSV or Parquet with a path column, or a video.
        out: .parquet, .csv or .jsonl file, or a folder; default: features in RUN, or in runs/foreign/NAME.
            `-` writes JSON lines to standard output and keeps nothing.
        stage: head (the features before the classifier), or stem, stage1, ... (averaged over time and space).
        eval: clips of each video, evenly spread; default: those of the run.
        workers: decoding processes; 0 decodes in the main process.
        device: auto, cpu, cuda or mps.
        precision: of the forward pass.
        max_bad: share of the inputs that may be unreadable; beyond it the exit code is 3.
        deadline: seconds that reading one video may take; one that hangs, or kills its decoder twice, is a row.
        quarantine: table of `scan`: what it found unusable is not opened; its row says what the scan said.
        join: work beside others that make the same table, also on other machines; each takes what no other has.
        overwrite: make all rows anew, also where --out holds the table of another job.
    """
    from hybridvideo.tasks.extract import extract as task
    from hybridvideo.tasks.support.table_job import Job

    job = Job(workers, device, precision, max_bad, deadline, quarantine, join, overwrite)
    return task(run, source, out, stage, eval, job)


def prepare(
    source: str,
    out: str | None = None,
    short_side: int = 256,
    gop: int = 16,
    crf: float = 20.0,
    audio: Literal["drop", "keep"] = "drop",
    root: str | None = None,
    annotations: str | None = None,
    videos: str | None = None,
    workers: int = 2,
    deadline: float = 600.0,
    max_bad: float = 1.0,
    overwrite: bool = False,
) -> int:
    """Copy videos so that training clips load fast; or, with `kinetics400` as the source, make a checked list of clips.

    Args:
        source: a folder of videos or a list of any kind; `kinetics400` with --annotations and --videos.
        out: folder for the copies, manifest.csv and prepare.parquet; with kinetics400 the list, .csv or .parquet.
        short_side: pixels of the copies' shorter side; smaller videos keep their size.
        gop: frames from one key frame to the next.
        crf: quality of the copies, lower is better and larger.
        audio: drop or keep the sound.
        root: folder that relative paths of a list start from; default: the folder of the list.
        annotations: with kinetics400, the official CSV.
        videos: with kinetics400, the folder of the downloaded clips, in any layout.
        workers: processes that copy; 0 copies in the main process.
        deadline: seconds a video may take.
        max_bad: share of the videos that may have no copy, or of the clips no file; beyond it the exit code is 3.
        overwrite: make all copies anew, also where --out holds copies of another recipe.
    """
    from hybridvideo.data.corpus.copies import Recipe
    from hybridvideo.tasks.prepare import start

    recipe = Recipe(short_side, gop, crf, audio)
    return start(source, out, recipe, root, annotations, videos, workers, deadline, max_bad, overwrite)


def scan(
    source: str, out: str = "scan.parquet", decode: Literal["full", "index"] = "full", short: int = 2,
    backend: str = "auto", labelled: bool = False, root: str | None = None, workers: int = 2, deadline: float = 600.0,
    max_bad: float = 0.5, join: bool = False, overwrite: bool = False,
) -> int:  # fmt: skip
    """Look at every video of a corpus: what decodes, what does not and why. Can be stopped and started again.

    The table is what `data.quarantine` of training and evaluation, and `--quarantine` of the bulk jobs, take.

    Args:
        source: a folder of videos or a list of any kind.
        out: .parquet, .csv or .jsonl file, or a folder; only a Parquet table can be a quarantine. `-` writes JSON lines
            to standard output and keeps nothing.
        decode: full decodes every frame; index reads packets and one frame, which is quick and finds less.
        short: videos with fewer frames are called short.
        backend: decoder: auto, or one of those that `doctor` lists.
        labelled: the list has labels; they become a column.
        root: folder that relative paths of a list start from; default: the folder of the list.
        workers: decoding processes; 0 decodes in the main process, where nothing protects from a file that hangs.
        deadline: seconds a file may take.
        max_bad: share of the files that may be unusable; beyond it the exit code is 3, with the table written.
        join: work beside others that make the same table, also on other machines; each takes what no other has.
        overwrite: make all rows anew, also where --out holds the table of another job.
    """
    from hybridvideo.tasks.scan import ScanSettings
    from hybridvideo.tasks.scan import scan_corpus as task
    from hybridvideo.tasks.support.table_job import Job

    job = Job(workers=workers, deadline=deadline, max_bad=max_bad, join=join, overwrite=overwrite)
    return task(source, out, ScanSettings(decode, short, backend), labelled, root, job)


def bench(
    subject: str,
    source: str,
    clip: ClipConfig = ClipConfig(frames=32, stride=2),  # noqa: B008
    frame: FrameConfig = FrameConfig(),  # noqa: B008
    augment: AugmentConfig = AugmentConfig(),  # noqa: B008
    workers: int = 2,
    batch_size: int = 8,
    clips: int = 128,
    rate: float | None = None,
    model: str | None = None,
    device: str = "auto",
    out: str | None = None,
) -> int:
    """Measure on your own videos what a training clip costs, stage by stage, and whether a model would have to wait.

    Args:
        subject: what is measured: loader.
        source: a folder of videos, a list of any kind, or a video.
        clip: the clips that are read.
        frame: their size.
        augment: how they are cut.
        workers: decoding processes.
        batch_size: videos in a batch.
        clips: clips of each of the two measurements.
        rate: clips a second that your model takes, to see how long it would wait and how many cores it needs.
        model: a model that trains on the clips, in place of a rate.
        device: auto, cpu, cuda or mps.
        out: a .json file for the figures.
    """
    from hybridvideo.tasks.bench import LoaderBench, bench_loader

    if subject != "loader":
        raise UserError(f"nothing called {subject!r} to measure; give loader")
    settings = LoaderBench(workers, batch_size, clips, rate, model, device)
    return bench_loader(source, settings, clip, frame, augment, out)


COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "doctor": doctor,
    "models": models,
    "scan": scan,
    "prepare": prepare,
    "train": train,
    "convert": convert,
    "evaluate": evaluate,
    "predict": predict,
    "extract": extract,
    "bench": bench,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is that of `errors`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Decoding processes share the cores with torch's threads: waiting threads that spin take them away from decoding.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = run_command(arguments)
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


SPELLINGS = {
    "models": Spelling(("pattern",)),
    "scan": Spelling(("source",)),
    "prepare": Spelling(("source",)),
    "train": Spelling(config_file=True),
    "convert": Spelling(("source", "out")),
    "evaluate": Spelling(("run",)),
    "predict": Spelling(("run", "source")),
    "extract": Spelling(("run", "source")),
    "bench": Spelling(("subject", "source")),
}


def parse(name: str, arguments: list[str]) -> dict[str, Any]:
    """Options of a command as arguments of its function. UserError for what it does not have."""
    return parse_options(f"{PROGRAM} {name}", COMMANDS[name], SPELLINGS.get(name, Spelling()), arguments)


if __name__ == "__main__":
    sys.exit(main())
