"""Recognise by its keys which code base wrote a state dict: this project, or one of the foreign layouts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models import MODELS
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.towers import Towers
from hybridvideo.models.variants import Variant
from hybridvideo.parsing import plain
from hybridvideo.text import one_line
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.layouts.image_cnn import stem_layout
from hybridvideo.weights.layouts.layout import Architecture, Layout, State

PREFIXES = ("module.", "_orig_mod.", "model.")  # added by wrappers around the model
OWN_LAYOUT = "this project's own"
OWN_SHARE = 0.5  # of the keys must be names in the model for a state dict to be in its own layout


@dataclass(frozen=True)
class Recognised:
    """Tensors without wrappers' prefixes, and the layout of their keys; None: this project's own."""

    state: State
    layout: Layout | None

    @property
    def layout_name(self) -> str:
        """Name of the layout for messages."""
        return self.layout.name if self.layout else OWN_LAYOUT

    def renamed(self, where: str) -> State:
        """Return the tensors under the names used here."""
        if self.layout is None:
            return self.state
        with reporting_damage(where, self.layout):
            return self.layout.to_ours(self.state)

    def adapted(self, renamed: State, own: Mapping[str, Tensor], where: str) -> State:
        """Add what the layout fills in for a model whose state is `own`."""
        if self.layout is None:
            return renamed
        with reporting_damage(where, self.layout):
            return self.layout.adapt(renamed, own)


def architecture_of(layout: Layout, state: State, where: str) -> Architecture:
    """Return the model a state dict belongs to; its changes are those that differ from the named variant.

    UserError if the tensors they are inferred from are missing.
    """
    with reporting_damage(where, layout):
        name, changes = layout.architecture(state)
    builder = MODELS.get(name)
    known = plain(builder.config) if isinstance(builder, Variant) else {}
    return Architecture(
        name, {key: value for key, value in changes.items() if key not in known or plain(value) != known[key]}
    )


def likely_architecture(layout: Layout, state: State) -> Architecture | None:
    """Return the same for messages and defaults; None if it cannot be inferred."""
    try:
        return architecture_of(layout, state, "")
    except UserError:
        return None


@contextmanager
def reporting_damage(where: str, layout: Layout) -> Iterator[None]:
    """Turn errors caused by a damaged checkpoint, with tensors missing or oddly shaped, into UserError."""
    try:
        yield
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{where} holds {layout.name} weights but lacks {error.args[0]!r}; it is incomplete") from error
    except (ValueError, IndexError, RuntimeError, TypeError, ArithmeticError) as error:
        raise UserError(f"{where} holds {layout.name} weights of unusual shapes ({one_line(error)[:120]})") from error


def recognise(state: Mapping[str, Tensor], model: VideoModel, where: str) -> Recognised:
    """Return the layout of a state dict meant for `model`. UserError if no layout for its class matches."""
    own = model.state_dict().keys()
    if is_own(state, own):
        return Recognised(dict(state), None)
    others: list[tuple[State, Layout]] = []
    for bare in unprefixed(state):
        fitting = layouts_of(bare)
        if layout := best_of(fitting, bare, model, where):
            return Recognised(bare, layout)
        others += [(bare, layout) for layout in fitting]
    for bare in unprefixed(state):
        if is_own(bare, own):
            return Recognised(bare, None)
    if others:
        way = (
            "give it to one tower (weights: {conv: SOURCE, attention: SOURCE})"
            if isinstance(model, Towers)
            else "build the one it fits"
        )
        raise UserError(f"{where} {belongs_to(others)}, this model is a {type(model).__name__}; {way}")
    raise UserError(f"{where} {unknown(state)}; this model has {some(own)}")


def best_of(fitting: list[Layout], state: State, model: VideoModel, where: str) -> Layout | None:
    """Return the layout for the model's class, of several the one that fills most of the model; None if none fits."""
    stem = stem_layout(state, model)
    own = [layout.for_model(model) for layout in fitting if layout.family == type(model).__name__]
    candidates = [*own, *([stem] if stem else [])]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    names = model.state_dict().keys()

    def filled(layout: Layout) -> int:
        with reporting_damage(where, layout):
            return len(names & layout.to_ours(state).keys())

    return max(candidates, key=filled)


def layouts_of(state: State) -> list[Layout]:
    """Return the foreign layouts that a state dict matches."""
    return [layout for layout in LAYOUTS if layout.fits(state)]


def is_own(state: Iterable[str], own: Iterable[str]) -> bool:
    """Return whether these are names in the model; a foreign layout may share a few."""
    keys = set(state)
    return len(keys & set(own)) > OWN_SHARE * len(keys)


def unprefixed(state: Mapping[str, Tensor]) -> Iterator[State]:
    """Yield the state dict unchanged, then without each wrapper's prefix that all its keys share, one by one."""
    bare = dict(state)
    yield bare
    while bare and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in bare)), None)):
        bare = {key.removeprefix(prefix): value for key, value in bare.items()}
        yield bare


def belongs_to(fitting: list[tuple[State, Layout]]) -> str:
    """Describe what a file holds, and which models it fits."""
    layouts = dict.fromkeys(layout.name for _, layout in fitting)
    likely = [likely_architecture(layout, state) or (f"a {layout.family}", {}) for state, layout in fitting]
    names = dict.fromkeys(name for name, _ in likely)
    return f"holds {' or '.join(layouts)} weights, of {' or '.join(names)}"


def unknown(state: Mapping[str, Tensor]) -> str:
    """Describe a file of no known layout."""
    known = ", ".join(dict.fromkeys(re.split(r" \(|, ", layout.name)[0] for layout in LAYOUTS))
    return f"has {len(state)} tensors such as {some(state)}, in no layout known here ({known})"


def some(names: Iterable[str]) -> str:
    """Return the first and the last name."""
    names = list(names)
    return " and ".join(dict.fromkeys((names[0], names[-1]))) if names else "nothing"
