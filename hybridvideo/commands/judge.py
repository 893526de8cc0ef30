"""Commands that measure: how good a model is, and how fast loading is."""

from __future__ import annotations

from typing import Literal

from hybridvideo.config.data import AugmentConfig, ClipConfig, EvaluateData, FrameConfig
from hybridvideo.config.evaluation import Views
from hybridvideo.config.jobs import Compute, Decoding
from hybridvideo.errors import UserError


def evaluate(
    run: str,
    data: EvaluateData = EvaluateData(),
    eval: Views = Views(),
    out: str | None = None,
    checkpoint: Literal["last", "best"] | None = None,
    processes: int = 1,
    compute: Compute = Compute(),
) -> int:
    """Score a labelled list: multi-view top-1, top-5, mean-class accuracy, confusion matrix, scores of each video.

    Args:
        run: a run or checkpoint folder, or published weights, as `convert` takes them.
        out: folder for results.json, scores.parquet and report.html; default: evaluation-LIST-CLIPSxCROPS in RUN, or in
            runs/foreign/NAME for published weights, numbered if it holds another evaluation.
        checkpoint: of the run folder; default: the one its config keeps.
        processes: evaluate in this many processes on this machine, one per GPU if there are GPUs. They share the list.
    """
    from hybridvideo.tasks.support.launch import follow_launcher

    follow_launcher(processes, compute.device)
    from hybridvideo.tasks.evaluate import run_evaluation

    return run_evaluation(run, data, eval, out, checkpoint, compute)


def bench(
    subject: str,
    source: str,
    clip: ClipConfig = ClipConfig(frames=32, stride=2),
    frame: FrameConfig = FrameConfig(),
    augment: AugmentConfig = AugmentConfig(),
    workers: int = Decoding.workers,
    batch_size: int = 8,
    clips: int = 128,
    rate: float | None = None,
    model: str | None = None,
    device: str = Compute.device,
    out: str | None = None,
) -> int:
    """Measure on your own videos what a training clip costs, stage by stage, and whether a model would have to wait.

    Args:
        subject: what to measure: loader.
        source: a folder of videos, a list of any kind, or a video.
        workers: decoding processes.
        batch_size: videos in a batch.
        clips: clips in each of the two measurements.
        rate: clips per second that your model takes, to see how long it would wait and how many cores it needs.
        model: a model that trains on the clips, instead of a rate.
        device: auto, cpu, mps, cuda or cuda:NUMBER.
        out: a .json file for the figures.
    """
    from hybridvideo.tasks.bench import LoaderBench, bench_loader

    if subject != "loader":
        raise UserError(f"cannot measure {subject!r}; give loader")
    settings = LoaderBench(workers, batch_size, clips, rate, model, device)
    return bench_loader(source, settings, clip, frame, augment, out)
