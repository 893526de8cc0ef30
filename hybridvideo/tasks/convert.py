"""`hybridvideo convert`: published weights -> a checkpoint folder of this project, with all that belongs to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybridvideo.data.manifest.names import label_names
from hybridvideo.errors import UserError
from hybridvideo.files import locked
from hybridvideo.folders import replacing_folder
from hybridvideo.models.card import ModelCard, check_free, write_checkpoint
from hybridvideo.models.contract import count_parameters
from hybridvideo.parsing import plain
from hybridvideo.text import shown
from hybridvideo.weights.find_checkpoint import find_checkpoint
from hybridvideo.weights.load_foreign import Wanted, load_foreign
from hybridvideo.weights.open_source import is_ours


def run_conversion(source: str, out: str, wanted: Wanted, overwrite: bool) -> int:
    """Run the command; return its exit code."""
    folder = Path(out)
    if Path(source).exists() and is_ours(source):
        raise UserError(f"{find_checkpoint(source)} is a checkpoint of this project already; use it as it is")
    with locked(folder.absolute().with_name(f".{folder.name}.lock"), "convert"):
        check_free(folder, overwrite)
        model, card, report = load_foreign(source, wanted)
        with replacing_folder(folder) as new:
            write_checkpoint(new, model.state_dict(), card)
    lines = [
        f"weights     {report}",
        *(f"            {line}" for line in report.details().splitlines()),
        f"model       {card.name}, {count_parameters(model) / 1e6:.2f} M parameters",
        *lines_of(card),
        f"checkpoint  {folder}",
    ]
    print("\n".join(map(shown, lines)))
    return 0


def wanted(
    model: str | None, changes: dict[str, Any] | None, labels: str | None, frames: int | None, size: int | None
) -> Wanted:
    """Return what the options ask for. Raise UserError for a list of labels that cannot be read."""
    return Wanted(model, changes or {}, None if labels is None else label_names(labels), frames, size)


def lines_of(card: ModelCard) -> list[str]:
    """Describe what travels with the weights, line by line."""
    clip, frame, normalisation = card.preprocessing.clip, card.preprocessing.frame, card.preprocessing.normalisation
    step = f"{clip.interval:.4g} s apart" if clip.interval else f"stride {clip.stride or 1}"
    side = frame.short_side or min(frame.height, frame.width)
    settings = ", ".join(f"{name} {value}" for name, value in plain(card.settings).items())
    average = "probabilities" if card.eval.average == "softmax" else "logits"
    return [
        f"settings    {settings}",
        f"classes     {len(card.labels)}: {', '.join(card.labels[:3])}{', ...' if len(card.labels) > 3 else ''}",
        f"clip        {clip.frames} frames, {step}",
        f"frame       short side {side}, crop {frame.height} x {frame.width}",
        f"normalised  mean {normalisation.mean}, std {normalisation.std}",
        f"views       {card.eval.clips} x {card.eval.crops} (clips x crops), their {average} averaged",
    ]
