"""Commands about this package and this machine."""

from __future__ import annotations

from typing import Any

from hybridvideo.errors import UserError


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


def models(
    pattern: str = "*",
    draw: bool = False,
    out: str | None = None,
    config: str | None = None,
    changes: dict[str, Any] | None = None,
) -> int:
    """List the models with parameters, GMACs and input shape; for a single model, everything known about it.

    Args:
        pattern: only names that match, such as "hybrid_*".
        draw: write NAME.svg and NAME.html for each of them: stages, blocks, joints, shapes, and what each part costs.
        out: with --draw, the folder for them; default: drawings.
        config: with --draw, a training config whose model is drawn, instead of names.
        changes: with --draw, changed settings of the one model that is drawn, such as --changes.drop_path 0.1.
    """
    if draw:
        from hybridvideo.tasks.draw import run_draw

        return run_draw(pattern, out or "drawings", config, changes or {})
    if out or config or changes:
        raise UserError("--out, --config and --changes belong to --draw; add it")
    from hybridvideo.tasks.models import run_models

    return run_models(pattern)
