"""Commands that convert weights."""

from __future__ import annotations

from typing import Any


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
    """Convert published weights into a checkpoint folder with their classes, normalisation, clips and views.

    Args:
        source: a file of weights, a Hugging Face folder, torchvision:NAME[.WEIGHTS], timm:NAME[.TAG] or hf:OWNER/REPO.
        out: the checkpoint folder.
        model: name of the model; default: the one inferred from the tensors.
        changes: settings of the model that the tensors do not show, such as --changes.heads 8.
        labels: names of the classes, a file or `kinetics400`; default: those of the source, or of Kinetics-400.
        frames: frames of a clip, if they should differ from those of the weights or cannot be inferred.
        size: rows and columns of a frame, under the same conditions.
        overwrite: replace the checkpoint in the folder, provided that the folder holds nothing else.
    """
    from hybridvideo.tasks.convert import run_conversion, wanted

    return run_conversion(source, out, wanted(model, changes, labels, frames, size), overwrite)
