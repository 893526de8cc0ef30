"""Commands that train."""

from __future__ import annotations

from hybridvideo.config.training import TrainRun
from hybridvideo.errors import UserError


def train(
    run: TrainRun, out: str | None = None, resume: str | None = None, name: str | None = None, processes: int = 1
) -> int:
    """Train a model: --config FILE, and --section.key value to change settings of the file.

    Args:
        run: the settings.
        out: run folder; default: runs/NAME-seedSEED, with a number appended if it exists.
        resume: continue a run that was stopped: `--resume RUN` needs only its folder; without a folder it is the one
            in --out, or the newest of that name.
        name: name of the run; default: that of the config file.
        processes: train in this many processes on this machine, one per GPU if there are GPUs. They share each batch.
    """
    from hybridvideo.tasks.support.launch import launched

    if resume and out:
        raise UserError(f"--resume {resume} and --out {out} both name a run folder; give one of them")
    with launched(processes, run.device):
        from hybridvideo.tasks.train import run_training

        return run_training(run, resume or out, resume is not None, name or "train")
