"""Whose checkpoint a state dict is: this project's own, or of one of the foreign layouts, told by its keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models import MODELS
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.variants import Variant
from hybridvideo.parsing import plain
from hybridvideo.text import one_line
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.layouts.layout import Layout, State

PREFIXES = ("module.", "_orig_mod.", "model.")  # of wrappers that share weights with the model inside
OWN_LAYOUT = "this project's own"
OWN_SHARE = 0.5  # of the keys must be names of the model for them to be of its own layout


@dataclass(frozen=True)
class Recognised:
    """Tensors without the wrappers' prefixes, and the layout of their keys; None: this project's own."""

    state: State
    layout: Layout | None

    @property
    def layout_name(self) -> str:
        """For messages."""
        return self.layout.name if self.layout else OWN_LAYOUT

    def renamed(self, where: str) -> State:
        """The tensors under the names used here."""
        if self.layout is None:
            return self.state
        with naming_what_is_missing(where, self.layout):
            return self.layout.to_ours(self.state)

    def adapted(self, renamed: State, own: Mapping[str, Tensor], where: str) -> State:
        """The same with what the layout fills in for a model whose state is `own`."""
        if self.layout is None:
            return renamed
        with naming_what_is_missing(where, self.layout):
            return self.layout.adapt(renamed, own)


def architecture_of(layout: Layout, state: State, where: str) -> tuple[str, dict[str, Any]]:
    """Name of the model that a state dict belongs to, and the settings in which it differs from that variant.

    UserError where the tensors that tell are missing.
    """
    with naming_what_is_missing(where, layout):
        name, changes = layout.architecture(state)
    builder = MODELS.get(name)
    known = plain(builder.config) if isinstance(builder, Variant) else {}
    return name, {key: value for key, value in changes.items() if key not in known or plain(value) != known[key]}


def likely_architecture(layout: Layout, state: State) -> tuple[str, dict[str, Any]] | None:
    """The same for advice and the like; None where the tensors do not tell."""
    try:
        return architecture_of(layout, state, "")
    except UserError:
        return None


@contextmanager
def naming_what_is_missing(where: str, layout: Layout) -> Iterator[None]:
    """A damaged checkpoint may lack, or have in odd shapes, what a layout reads to do its work."""
    try:
        yield
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{where} holds {layout.name} weights but lacks {error.args[0]!r}; it is incomplete") from error
    except (ValueError, IndexError, RuntimeError, TypeError, ArithmeticError) as error:
        raise UserError(f"{where} holds {layout.name} weights of unusual shapes ({one_line(error)[:120]})") from error


def recognise(state: Mapping[str, Tensor], model: VideoModel, where: str) -> Recognised:
    """The layout of a state dict that is to go into `model`. Raises UserError where there is none for its class."""
    own = model.state_dict().keys()
    if is_own(state, own):
        return Recognised(dict(state), None)
    others: list[tuple[State, Layout]] = []
    for bare in unprefixed(state):
        fitting = layouts_of(bare)
        for layout in fitting:
            if layout.family == type(model).__name__:
                return Recognised(bare, layout)
        others += [(bare, layout) for layout in fitting]
    for bare in unprefixed(state):
        if is_own(bare, own):
            return Recognised(bare, None)
    if others:
        raise UserError(f"{where} {belongs_to(others)}, this model is a {type(model).__name__}; build the one it fits")
    raise UserError(f"{where} {unknown(state)}; this model has {some(own)}")


def layouts_of(state: State) -> list[Layout]:
    """The foreign layouts whose keys these are."""
    return [layout for layout in LAYOUTS if layout.fits(state)]


def is_own(state: Iterable[str], own: Iterable[str]) -> bool:
    """Whether these are names of the model; a foreign layout may share a few."""
    keys = set(state)
    return len(keys & set(own)) > OWN_SHARE * len(keys)


def unprefixed(state: Mapping[str, Tensor]) -> Iterator[State]:
    """The state dict as it is, then without each prefix that all its keys share, one after another."""
    bare = dict(state)
    yield bare
    while bare and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in bare)), None)):
        bare = {key.removeprefix(prefix): value for key, value in bare.items()}
        yield bare


def belongs_to(fitting: list[tuple[State, Layout]]) -> str:
    """What a file holds, and the models it is for."""
    layouts = dict.fromkeys(layout.name for _, layout in fitting)
    told = [likely_architecture(layout, state) or (f"a {layout.family}", {}) for state, layout in fitting]
    names = dict.fromkeys(name for name, _ in told)
    return f"holds {' or '.join(layouts)} weights, of {' or '.join(names)}"


def unknown(state: Mapping[str, Tensor]) -> str:
    """What a file of no known layout holds."""
    known = ", ".join(dict.fromkeys(re.split(r" \(|, ", layout.name)[0] for layout in LAYOUTS))
    return f"has {len(state)} tensors such as {some(state)}, which is no layout known here ({known})"


def some(names: Iterable[str]) -> str:
    """The first and the last name."""
    names = list(names)
    return " and ".join(dict.fromkeys((names[0], names[-1]))) if names else "nothing"
