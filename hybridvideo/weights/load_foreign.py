"""Turn a foreign checkpoint into the model it belongs to, with its weights and a card for them.

What the caller does not specify is taken from the first of these that has it:

    the source itself       classes, normalisation, size, clips (a Hugging Face folder, torchvision's record)
    its layout              the architecture inferred from the tensors, and what its authors published
    the model's variant     what was published of it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from typing import Any

from hybridvideo.config.data import ClipConfig, FrameConfig, Preprocessing
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import UserError
from hybridvideo.models import MODELS
from hybridvideo.models.card import ModelCard, Origin
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.variants import Published, Variant
from hybridvideo.weights.build_model import build_from_settings
from hybridvideo.weights.layouts.layout import State
from hybridvideo.weights.load_report import LoadReport
from hybridvideo.weights.load_weights import load_opened
from hybridvideo.weights.open_source import From, open_source
from hybridvideo.weights.recognise import Recognised, architecture_of, layouts_of, recognise, unknown, unprefixed
from hybridvideo.weights.source import Facts, Source

KINETICS400 = 400  # classes; this many without names are assumed to be Kinetics-400 in alphabetical order
INPUT = ("frames", "height", "width")  # settings that every model has


@dataclass(frozen=True)
class Wanted:
    """What the caller specifies, because it cannot be inferred or something else is wanted."""

    model: str | None = None
    """Name of the model, as for `create_model`."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from those inferred."""
    labels: tuple[str, ...] | None = None
    """Names of the classes, in the order of the logits."""
    frames: int | None = None
    size: int | None = None
    """Rows and columns."""

    def all_changes(self) -> dict[str, Any]:
        """Return the settings of the model, frames and size included."""
        frames = {} if self.frames is None else {"frames": self.frames}
        size = {} if self.size is None else {"height": self.size, "width": self.size}
        return {**self.changes, **frames, **size}


def load_foreign(source: From, wanted: Wanted | None = None) -> tuple[VideoModel, ModelCard, LoadReport]:
    """Return the model that some weights belong to, its card, and the report on each tensor.

    Raises:
        UserError: no known layout, no classifier, or something does not fit.
        EnvironmentFault: the weights cannot be downloaded.
    """
    wanted, opened = wanted or Wanted(), open_source(source)
    name, changes, state = architecture(opened, wanted)
    model = build_from_settings(name, 1, changes, opened.where)
    known = recognise(state, model, opened.where)
    model.reset_classifier(count_classes(model, known, opened.where))
    report = load_opened(model, opened, known)
    report.notes += assumptions(name, model.num_classes, opened.facts, known, wanted)
    return model, card_of(name, model, opened, known, wanted, report), report


def architecture(opened: Source, wanted: Wanted) -> tuple[str, dict[str, Any], State]:
    """Return name and settings of the model, and the tensors without wrappers' prefixes."""
    for bare in unprefixed(opened.state):
        if fitting := layouts_of(bare):
            name, changes = architecture_of(fitting[0], bare, opened.where)
            if wanted.model not in (None, name):
                name, changes = str(wanted.model), {}
            changes = with_stated_blocks(changes, opened.facts)
            return name, {**changes, **stated_settings(opened.facts, name), **wanted.all_changes()}, bare
    if wanted.model is None:
        raise UserError(
            f"{opened.where} {unknown(opened.state)}; if they belong to a model of this project, name it with "
            "`hybridvideo convert SOURCE FOLDER --model NAME` and use FOLDER"
        )
    return wanted.model, wanted.all_changes(), opened.state


def stated_settings(facts: Facts, name: str) -> dict[str, Any]:
    """Return those settings stated by a source that the model has."""
    builder = MODELS.get(name)
    has = {part.name for part in fields(builder.config)} if isinstance(builder, Variant) else set(INPUT)
    return {key: value for key, value in facts.changes.items() if key in has}


def with_stated_blocks(changes: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """Set heads and activation that a source states in the stages inferred from its tensors."""
    if "stages" not in changes:
        return changes
    activation = {} if facts.activation in (None, "gelu") else {"activation": facts.activation}
    stated = activation if facts.heads is None else {"heads": facts.heads, **activation}
    return {**changes, "stages": [{**stage, **stated} for stage in changes["stages"]]}


def count_classes(model: VideoModel, known: Recognised, where: str) -> int:
    """Return the rows of the classifier; UserError if there is none."""
    weight = known.renamed(where).get(f"{model.classifier_name}.weight")
    if weight is None or not weight.ndim or not len(weight):
        raise UserError(
            f"{where} holds {known.layout_name} weights without a classifier: nothing to classify with; train one on "
            "them (`hybridvideo train --model.weights SOURCE --model.head replace`), or "
            'load_weights(model, source, head="replace")'
        )
    return len(weight)


# --- the card ---------------------------------------------------------------------------------------------------------


def card_of(
    name: str, model: VideoModel, opened: Source, known: Recognised, wanted: Wanted, report: LoadReport
) -> ModelCard:
    """Return the card that goes with the weights."""
    facts, figure = opened.facts, published(name, known)
    labels = labels_for(model, facts, wanted)
    views = facts.views or (figure.views if figure else EvalConfig())
    origin = Origin(opened.where, known.layout_name, opened.sha256(), tuple(report.notes))
    return ModelCard(name, labels, model.settings(), preprocessing(model, name, facts, figure), views, origin)


def assumptions(name: str, classes: int, facts: Facts, known: Recognised, wanted: Wanted) -> list[str]:
    """Describe what neither source nor caller specified, and where it was taken from."""
    figure = published(name, known)
    where = f"as published of {name} on Kinetics-400 ({figure.paper})" if figure else "defaults; check them"
    stated = {"clip": facts.clip, "views": facts.views, "normalisation": facts.normalisation}
    unstated = ", ".join(name for name, value in stated.items() if value is None)
    notes = [f"{unstated}: {where}"] if unstated else []
    if wanted.labels is None and (facts.labels is None or len(facts.labels) != classes):
        kinetics = "assumed to be those of Kinetics-400, in alphabetical order"
        unnamed = "without names; `hybridvideo convert SOURCE FOLDER --labels FILE` names them"
        notes.append(f"classes: {kinetics if classes == KINETICS400 else unnamed}")
    return notes


def published(name: str, known: Recognised) -> Published | None:
    """Return what was published of the weights: by their layout, or else by the model's variant."""
    figure = known.layout.published(name) if known.layout else None
    builder = MODELS[name]
    return figure or (builder.published if isinstance(builder, Variant) else None)


def preprocessing(model: VideoModel, name: str, facts: Facts, figure: Published | None) -> Preprocessing:
    """Return clip, frame size and normalisation."""
    _, frames, height, width = model.input_shape
    clip = facts.clip or (figure.clip if figure else ClipConfig())
    normalisation = facts.normalisation or (figure.normalisation if figure else model.normalisation)
    frame = FrameConfig(height, width, short_side=short_side(min(height, width), name, facts, figure))
    return Preprocessing(replace(clip, frames=frames), frame, normalisation)


def short_side(crop: int, name: str, facts: Facts, figure: Published | None) -> int | None:
    """Scale the short side before the crop with the crop, as source or authors have them; None: the crop's."""
    builder = MODELS[name]
    if facts.short_side is not None:
        side, of = facts.short_side, min(facts.size or (facts.short_side,))
    elif figure is not None and figure.short_side is not None:
        config = builder.config if isinstance(builder, Variant) else None
        side, of = figure.short_side, min(getattr(config, "height", crop), getattr(config, "width", crop))
    else:
        return None
    scaled = round(side * crop / of)
    return scaled if scaled > crop else None


def labels_for(model: VideoModel, facts: Facts, wanted: Wanted) -> tuple[str, ...]:
    """Return names of the classes: those given, those of the source, those of Kinetics-400, or numbers."""
    count = model.num_classes
    if wanted.labels is not None and len(wanted.labels) != count:
        raise UserError(f"{len(wanted.labels)} labels for {count} classes; give one name for each")
    if wanted.labels is not None:
        return wanted.labels
    if facts.labels is not None and len(facts.labels) == count:
        return facts.labels
    return kinetics400() if count == KINETICS400 else tuple(f"class {i}" for i in range(count))


def kinetics400() -> tuple[str, ...]:
    """Return the alphabetical list of Kinetics-400."""
    text = (files("hybridvideo") / "data" / "labels" / "kinetics400.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
