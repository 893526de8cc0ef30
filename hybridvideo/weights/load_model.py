"""Load a trained model with everything that belongs to it: from a run, a checkpoint or a foreign source."""

from __future__ import annotations

from pathlib import Path

from hybridvideo.errors import UserError
from hybridvideo.models.card import CARD, WEIGHTS, ModelCard, read_card
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.build_model import build_from_settings
from hybridvideo.weights.find_checkpoint import read_checkpoint
from hybridvideo.weights.load_foreign import load_foreign
from hybridvideo.weights.load_weights import load_weights
from hybridvideo.weights.open_source import is_ours


def load_model(path: str | Path, which: str | None = None) -> VideoModel:
    """Return a trained model in evaluation mode, with its `labels`, `preprocessing` and `card`.

    Args:
        path: a run folder, a checkpoint folder, or foreign weights of a known layout: a file, a Hugging Face folder,
            `torchvision:NAME[.WEIGHTS]`, `timm:NAME[.TAG]`, `hf:OWNER/REPO`. For foreign weights the model is inferred
            from the tensors; classes and preprocessing come from the source, or else from what its authors published.
        which: "last" or "best" of a run folder; default: the one its config keeps.

    Raises:
        UserError: nothing to load, a damaged file, no known layout, or no classifier.
        EnvironmentFault: the weights cannot be downloaded.
    """
    file = Path(path)
    if file.name == WEIGHTS and file.is_file() and (file.parent / CARD).is_file():
        path = file.parent
    if not is_ours(path):
        if which is not None:
            raise UserError(f"{path} is not a run folder, so it has no {which!r} checkpoint; leave that out")
        model, card, _ = load_foreign(path)
        return with_card(model, card)
    return read_checkpoint(path, which, load_own)


def load_own(folder: Path) -> VideoModel:
    """Load the model of a checkpoint folder of this project."""
    card = read_card(folder)
    model = build_from_settings(card.name, len(card.labels), card.settings, str(folder / CARD))
    load_weights(model, folder)
    return with_card(model, card)


def with_card(model: VideoModel, card: ModelCard) -> VideoModel:
    """Put the model in evaluation mode and attach its card."""
    model.labels, model.preprocessing, model.card = card.labels, card.preprocessing, card
    model.normalisation = card.preprocessing.normalisation
    return model.eval()
