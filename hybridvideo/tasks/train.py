"""`hybridvideo train`: lists and settings -> a run folder with checkpoints, metrics, an evaluation and a report."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig, Preprocessing
from hybridvideo.config.jobs import Reading
from hybridvideo.config.training import TrainRun
from hybridvideo.data.corpus.quarantine import quarantined
from hybridvideo.data.dataset import ClipDataset
from hybridvideo.data.decode.known import index_beside
from hybridvideo.data.manifest import Manifest, read_manifest
from hybridvideo.data.manifest.check import check_files
from hybridvideo.data.sampling import hash_seed
from hybridvideo.data.transforms import TrainTransform
from hybridvideo.engine.preemption import StopRequest, stopping_at_once
from hybridvideo.engine.scoring import score_list
from hybridvideo.engine.training.checkpoint import RunKeeper
from hybridvideo.engine.training.classification import Classification
from hybridvideo.engine.training.feeds import Data, ListFeeds
from hybridvideo.engine.training.frozen import LARGEST_SHARED, can_be_kept, compute_frozen, shared_cache, using
from hybridvideo.engine.training.log import RunLog
from hybridvideo.engine.training.loop import fit
from hybridvideo.engine.training.optim import LayerRates, parameter_groups
from hybridvideo.engine.training.phases import Phase, phases_of
from hybridvideo.engine.training.run import Plan
from hybridvideo.errors import EnvironmentFault, HybridVideoError, Preempted, TooMuchBadData, UserError
from hybridvideo.files import ADVICE, AGAIN, writing
from hybridvideo.models.card import ModelCard
from hybridvideo.models.contract import VideoModel, count_parameters
from hybridvideo.parsing import plain
from hybridvideo.tasks.evaluate import report_evaluation
from hybridvideo.tasks.support.job_device import pick_device, process_state
from hybridvideo.tasks.support.run_folder import CONFIG, config_text
from hybridvideo.tasks.support.run_guard import run_folder, with_spacing
from hybridvideo.tasks.support.start_record import with_found_paths
from hybridvideo.tasks.support.write_page import write_training_page
from hybridvideo.text import one_line, shown
from hybridvideo.weights.build_model import build_from_settings
from hybridvideo.weights.find_checkpoint import find_checkpoint
from hybridvideo.weights.load_model import load_model
from hybridvideo.weights.load_weights import load_weights


def run_training(run: TrainRun, out: str | None, resume: bool, name: str) -> int:
    """Run the command; several processes of `accelerate launch` or torchrun do so together."""
    run = with_spacing(run)
    if resume and out is not None:
        run = with_found_paths(run, Path(out))
    check_tools(run)
    manifest, val = read_lists(run)
    found = check_lists(run, manifest, val)
    first = process_state(run.device).is_main_process
    model = build_model(run, manifest.labels, first)  # before there is a folder: what cannot be built leaves none
    phases = phases_of(run)
    check_batches(phases, run, process_state(run.device).num_processes)
    check_phases(model, phases, run)
    say(first, *found)
    lists = {"train": manifest} | ({"val": val} if val is not None else {})
    with (
        run_folder(run, lists, out, f"{name}-seed{run.seed}", resume) as (folder, go_on),
        naming_full_disk(folder),
        naming_lost_process(),
        training_with(run, folder) as accelerator,
    ):
        say(accelerator.is_main_process, described(run, model, manifest, val, accelerator, folder))
        keeper = RunKeeper(folder / "checkpoints", card_of(run, model, manifest.labels), go_on)
        plan = Plan(phases, run.optim, run.train, run.seed, run.data.bad, run.data.max_bad)
        objective = Classification(manifest.labels, model.normalisation, run.augment, run.optim.label_smoothing)
        log = RunLog(folder, accelerator)
        with frozen_cache(run, model, folder) as cache:
            feeds = make_feeds(run, model.to(accelerator.device), (manifest, val), phases, accelerator, cache)
            with StopRequest() as stop:
                fit(model, plan, objective, feeds, accelerator=accelerator, keeper=keeper, log=log, stop=stop)
                if stop.anywhere(accelerator):  # in the last validation, after which the loop asks no more
                    raise Preempted("stopped before the evaluation after training; --resume continues with it")
        with stopping_at_once("stopped in the evaluation after training; --resume repeats it"):
            finish(run, folder, val, accelerator)
    return 0


@contextmanager
def training_with(run: TrainRun, folder: Path) -> Iterator[Accelerator]:
    """A context with the accelerator of a run and its trackers."""
    accelerator = make_accelerator(run, folder)
    start_trackers(accelerator, run)
    accelerator.wait_for_everyone()
    try:
        yield accelerator
    finally:
        accelerator.end_training()


def described(
    run: TrainRun, model: VideoModel, manifest: Manifest, val: Manifest | None, accelerator: Accelerator, folder: Path
) -> str:
    """Describe the training that is about to start."""
    clip, device = run.clip, accelerator.device
    where = str(device) if device.type == "cuda" else device.type
    count = accelerator.num_processes
    processes = "1 process" if count == 1 else f"{count} processes"
    if clip.stride is not None:
        spacing = "every frame (stride 1)" if clip.stride == 1 else f"one frame in {clip.stride} (stride {clip.stride})"
    else:
        spacing = f"{clip.interval:g} s apart"
    return (
        f"{run.model.name}: {count_parameters(model) / 1e6:.2f} M parameters, {len(manifest)} training videos, "
        f"{len(val) if val else 0} for validation, clips of {clip.frames} frames, {spacing}, "
        f"{processes} on {where}; run folder {folder}"
    )


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn an OSError of a full or read-only disk into an EnvironmentFault."""
    try:
        try:
            yield
        except OSError as error:
            if error.errno not in ADVICE:
                raise
            with writing(Path(error.filename or folder)):
                raise
    except EnvironmentFault as fault:
        if not (folder / CONFIG).is_file() or not str(fault).endswith(AGAIN):
            raise
        raise EnvironmentFault(f"{str(fault).removesuffix(AGAIN)}continue with --resume {folder}") from fault


@contextmanager
def naming_lost_process() -> Iterator[None]:
    """Turn a broken exchange between processes, one of which has ended, into a HybridVideoError."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        raise HybridVideoError(
            "another process of this training has ended, and so does this one; continue with --resume from the last "
            "checkpoint"
        ) from error


def finish(run: TrainRun, folder: Path, val: Manifest | None, accelerator: Accelerator) -> None:
    """Evaluate the kept checkpoint on the validation list, multi-view, and write the report."""
    results, rows = None, []
    if val is not None:
        model = load_model(folder)
        reading = {name: getattr(run.data, name) for name in ("workers", "deadline", "quarantine")}
        evaluation = score_list(model, val, run.eval, accelerator=accelerator, **reading)
        results, rows = evaluation.results, evaluation.rows
        if accelerator.is_main_process:
            facts = {"checkpoint": str(find_checkpoint(folder)), "list": run.data.val}
            report_evaluation(folder / "evaluation", model, evaluation, val, facts, config_text(folder))
    if not accelerator.is_main_process:
        return
    page = write_training_page(folder, results, rows, val)
    if results:
        low, high = results["top1_interval"]
        views = f"{run.eval.clips} x {run.eval.crops} views"
        say(
            True,
            f"validation top-1 {results['top1']:.3f} (95 % {low:.3f} to {high:.3f}), {views}, "
            f"{results['num_videos']} videos, {results['num_failed']} unreadable",
        )
    say(True, f"run {folder}", f"report {page}")


def read_lists(run: TrainRun) -> tuple[Manifest, Manifest | None]:
    """Read training and validation lists under one label set."""
    if not run.data.train:
        raise UserError(
            "no training list; give --data.train LIST (a folder of class folders, a CSV, `path label` lines)"
        )
    read = partial(read_manifest, root=run.data.root, order=run.data.order)
    manifest = read(run.data.train, labels=run.data.labels)
    if len(manifest.labels) < 2:
        raise UserError(f"{run.data.train} has one class ({manifest.labels[0]}); training needs two or more")
    return manifest, read(run.data.val, labels=manifest.labels) if run.data.val else None


def check_lists(run: TrainRun, manifest: Manifest, val: Manifest | None) -> list[str]:
    """Return lines on files and classes: missing, duplicate, unlisted. TooMuchBadData if too many are unusable."""
    lists = {run.data.train: manifest} | ({run.data.val: val} if val is not None else {})
    everything = {os.path.normpath(part.file(index)) for part in lists.values() for index in range(len(part))}
    lines = []
    for source, part in lists.items():
        report = check_files(part)
        if report.unusable > run.data.max_bad * len(part):
            raise TooMuchBadData(
                f"{report.unusable} of {len(part)} files of {source} are missing or cannot be opened, more than "
                f"data.max_bad {run.data.max_bad} allows (first: {report.first_fault}); check data.root"
            )
        nowhere = [path for path in report.unlisted if os.path.normpath(part.root / path) not in everything]
        lines += [f"{source}: {line}" for line in replace(report, unlisted=tuple(nowhere)).lines()]
    return lines


def check_tools(run: TrainRun) -> None:
    """Raise UserError or EnvironmentFault for a precision or tracker that is not available."""
    if run.train.precision == "fp16" and pick_device(run.device).type == "cpu":
        raise UserError("train.precision fp16 needs a GPU; use bf16 or fp32 on cpu")
    installed = {str(tracker) for tracker in get_available_trackers()}
    for tracker in run.train.trackers:
        if tracker not in installed and tracker != "all":
            raise EnvironmentFault(
                f"train.trackers {run.train.trackers}: {tracker} is not installed; install it or use []"
            )


def make_accelerator(run: TrainRun, folder: Path) -> Accelerator:
    """Build the accelerator: processes, mixed precision, trackers; the loop itself accumulates and scales gradients."""
    return Accelerator(
        cpu=pick_device(run.device).type == "cpu",
        mixed_precision="no" if run.train.precision == "fp32" else run.train.precision,
        log_with=run.train.trackers or None,
        project_dir=str(folder),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def start_trackers(accelerator: Accelerator, run: TrainRun) -> None:
    """Start the trackers; one that cannot start is a plain UserError."""
    flat = {
        f"{section}.{key}": str(value)
        for section, part in plain(run).items()
        if isinstance(part, dict)
        for key, value in part.items()
    }
    try:
        project = "tensorboard" if run.train.trackers == ["tensorboard"] else "hybridvideo"
        accelerator.init_trackers(project, config=flat)
    except (ImportError, ValueError) as error:
        raise EnvironmentFault(f"train.trackers {run.train.trackers}: {error}; install it or use []") from error


def build_model(run: TrainRun, labels: tuple[str, ...], shown: bool = False) -> VideoModel:
    """Build the model at the run's input size, with its starting weights; the same in every process."""
    torch.manual_seed(hash_seed(run.seed))
    size = {"frames": run.clip.frames, "height": run.frame.height, "width": run.frame.width}
    model = build_from_settings(run.model.name, len(labels), {**size, **run.model.changes}, "model")
    if run.model.weights:
        report = load_weights(model, run.model.weights, head=run.model.head)
        say(shown, "\n".join([f"{sources_of(run.model.weights)}: {report}", *report.notes]))
    elif model.notes:
        say(shown, "\n".join(model.notes))
    return model


def sources_of(weights: str | dict[str, str]) -> str:
    """Return the sources of weights, for the line that reports on them."""
    return weights if isinstance(weights, str) else ", ".join(f"{part} {source}" for part, source in weights.items())


def card_of(run: TrainRun, model: VideoModel, labels: tuple[str, ...]) -> ModelCard:
    """Return the card that travels with the weights."""
    preprocessing = Preprocessing(run.clip, run.frame, model.normalisation)
    return ModelCard(run.model.name, labels, model.settings(), preprocessing, run.eval)


def check_phases(model: VideoModel, phases: tuple[Phase, ...], run: TrainRun) -> None:
    """Raise UserError for a phase that does not fit the model: now, rather than in the middle of the run."""
    parameter_groups(model, run.optim, LayerRates(model, run.optim, phases))
    sizes = [(phase.clip.frames, phase.frame.height, phase.frame.width) for phase in phases]
    usual = (run.clip.frames, run.frame.height, run.frame.width)
    for size in dict.fromkeys(size for size in sizes if size != usual):
        place = f"phases[{sizes.index(size)}]: clips of {size[0]} frames of {size[1]}x{size[2]}"
        training = model.training
        try:
            with torch.no_grad():
                model.eval()(torch.zeros(1, 3, *size))
        except (UserError, RuntimeError) as error:
            raise UserError(
                f"{place} do not fit {run.model.name} as built for {usual[0]} frames of {usual[1]}x{usual[2]} "
                f"({one_line(error)}); give others, or another model"
            ) from error
        finally:
            model.train(training)


def check_batches(phases: tuple[Phase, ...], run: TrainRun, processes: int) -> None:
    """UserError for batches that cannot be made from repeated clips, or shared by the processes."""
    if run.train.batch_size % processes:
        raise UserError(
            f"train.batch_size {run.train.batch_size} cannot be split among {processes} processes; give a multiple of "
            f"{processes}"
        )
    repeats, unit = run.augment.repeats, run.augment.repeats * processes
    for number, phase in enumerate(phases):
        if phase.batch_size % unit:
            owner = f"phases[{number}]" if run.phases and run.phases[number].batch_size else "train"
            raise UserError(
                f"{owner}.batch_size {phase.batch_size} is not a multiple of augment.repeats {repeats} times "
                f"{processes} process(es); give a multiple of {unit}"
            )


def make_feeds(
    run: TrainRun,
    model: VideoModel,
    lists: tuple[Manifest, Manifest | None],
    phases: tuple[Phase, ...],
    accelerator: Accelerator,
    cache: Path | None,
) -> ListFeeds:
    """Build feeds of clips or, with a `cache`, of the outputs of the model's frozen part."""
    reading = Reading(run.data.workers, run.data.deadline)

    def data_of(clips: ClipDataset, name: str) -> Data:
        if cache is None:
            return clips
        with stopping_at_once(f"stopped in the frozen part; what is done is kept in {cache}; continue with --resume"):
            return compute_frozen(model, clips, cache, accelerator, reading, run.train.batch_size, name)

    manifest, val = lists
    sizes = dict.fromkeys((phase.clip, phase.frame) for phase in phases)
    train = {size: data_of(training_clips(run, manifest, *size), "training") for size in sizes}
    val_data = data_of(validation_clips(run, val), "validation") if val is not None else None
    return ListFeeds(
        accelerator,
        lambda phase: train[phase.clip, phase.frame],
        val_data,
        seed=run.seed,
        batch_size=run.train.batch_size,
        reading=reading,
    )


@contextmanager
def frozen_cache(run: TrainRun, model: VideoModel, folder: Path) -> Iterator[Path | None]:
    """Hold the folder for the outputs of the model's frozen part. None without such a part, or if its input varies."""
    if not (model.has_frozen_part() and can_be_kept(run.clip, run.augment)):
        yield None
        return
    cache = Path(run.data.cache) if run.data.cache else shared_cache(folder)
    with using(cache, None if run.data.cache else LARGEST_SHARED):
        yield cache


def training_clips(run: TrainRun, manifest: Manifest, clip: ClipConfig, frame: FrameConfig) -> ClipDataset:
    """Return the training list as augmented clips of a phase."""
    return ClipDataset(
        manifest,
        clip,
        TrainTransform(frame, run.augment),
        run.seed,
        bad=run.data.bad,
        index=index_beside(run.data.quarantine, run.data.train),
        quarantine=quarantined(run.data.quarantine, manifest),
    )


def validation_clips(run: TrainRun, val: Manifest) -> ClipDataset:
    """Return one clip of each validation video, unaugmented."""
    start = "centre" if run.clip.train_start == "random" else run.clip.train_start
    return ClipDataset(
        val,
        replace(run.clip, train_start=start),
        TrainTransform(run.frame, AugmentConfig(crop="none", flip=0.0)),
        run.seed,
        quarantine=quarantined(run.data.quarantine, val),
    )


def say(first: bool, *lines: str) -> None:
    """Print lines, from the first process only."""
    for line in lines if first else ():
        print(shown(line), file=sys.stderr, flush=True)
