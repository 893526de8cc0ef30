"""Commands about this package and this machine."""

from __future__ import annotations


def demo(out: str = "runs/demo", seed: int = 0, seeds: int = 1) -> int:
    """Render a small set of videos, train on it, evaluate, classify, extract features and write a report, offline.

    Args:
        out: folder for the videos, the runs and the report.
        seed: seed of the first run.
        seeds: train this many times, with seed, seed + 1, ...
    """
    from hybridvideo.tasks.demo import run_demo

    return run_demo(out, seed, seeds)


def doctor() -> int:
    """Check this installation: decoders, FFmpeg, torch, devices; for each fault, the command that fixes it."""
    from hybridvideo.tasks.doctor import run_doctor

    return run_doctor()


def models(pattern: str = "*") -> int:
    """List the models with parameters, GMACs and input shape; for a single model, everything known about it.

    Args:
        pattern: only names that match, such as "hybrid_*".
    """
    from hybridvideo.tasks.models import run_models

    return run_models(pattern)
