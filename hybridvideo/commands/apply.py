"""Commands that apply a trained model to many videos."""

from __future__ import annotations

from hybridvideo.config.evaluation import Views
from hybridvideo.config.jobs import Compute, Job, Reading


def predict(
    run: str,
    source: str,
    out: str | None = None,
    top_k: int = 5,
    eval: Views = Views(),
    reading: Reading = Reading(),
    compute: Compute = Compute(),
    job: Job = Job(),
) -> int:
    """Classify videos: print the top classes of each and write them to a file. Can be interrupted and continued.

    Args:
        run: a run or checkpoint folder, or published weights, as `convert` takes them.
        source: a folder of videos, a list of paths (one per line), a CSV or Parquet with a path column, or a video.
        out: .parquet, .csv or .jsonl file, or a folder; default: predictions in RUN, or in runs/foreign/NAME. `-`
            writes JSON lines to standard output and keeps nothing.
        top_k: classes per video.
    """
    from hybridvideo.tasks.predict import run_prediction

    return run_prediction(run, source, out, top_k, eval, reading, compute, job)


def extract(
    run: str,
    source: str,
    out: str | None = None,
    stage: str = "head",
    eval: Views = Views(),
    reading: Reading = Reading(),
    compute: Compute = Compute(),
    job: Job = Job(),
) -> int:
    """Extract features of clips, one vector per clip, into a file. Can be interrupted and continued.

    Args:
        run: a run or checkpoint folder, or published weights, as `convert` takes them.
        source: a folder of videos, a list of paths (one per line), a CSV or Parquet with a path column, or a video.
        out: .parquet, .csv or .jsonl file, or a folder; default: features in RUN, or in runs/foreign/NAME. `-` writes
            JSON lines to standard output and keeps nothing.
        stage: head (the features before the classifier), or stem, stage1, ... (averaged over time and space).
    """
    from hybridvideo.tasks.extract import run_extraction

    return run_extraction(run, source, out, stage, eval, reading, compute, job)
