"""Describe a foreign checkpoint: how its keys are recognised, what each is called here, what must be reshaped.

A rename table is a list of (theirs, ours), one row per module or tensor, with braces for what is the same on both
sides: `{i}` a number, `{p}` the parameter (weight, bias, running_mean ...).

    ("blocks.{i}.attn.qkv.{p}", "blocks.{i}.attention.qkv.{p}")

The first row that matches the complete key renames it; the same table read from right to left is the way back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from hybridvideo.models.contract import VideoModel
from hybridvideo.models.variants import Published
from hybridvideo.weights.source import Facts

State = dict[str, Tensor]
Renames = tuple[tuple[str, str], ...]


class Architecture(NamedTuple):
    """A model as `create_model` takes it."""

    name: str
    changes: dict[str, Any]
    """Settings that differ from the named variant's."""


@dataclass(frozen=True)
class Layout:
    """One foreign layout, for one family of models."""

    name: str
    """Name for messages, such as "TimeSformer (Hugging Face)"."""
    family: str
    """Class of the models that its weights fit, such as "TimeSformer"."""
    signature: tuple[str, ...]
    """Templates of keys that must all be present."""
    renames: Renames
    architecture: Callable[[State], Architecture]
    """Infer (model name, changes) for `create_model` from the tensors as they are in the file."""
    computed: tuple[str, ...] = ()
    """Templates of buffers that models compute for themselves here; they are left out."""
    fix: Callable[[State], State] = dict
    """Reshape their tensors, under their names, to the shapes used here; done before renaming."""
    unfix: Callable[[State], State] = dict
    """Undo `fix`, after renaming back."""
    adapt: Callable[[State, Mapping[str, Tensor]], State] = lambda state, _own: state
    """Fill in from the model's own state what the layout lacks (a time axis, temporal attention)."""
    published: Callable[[str], Published | None] = lambda _name: None
    """Return what was published of its weights for a model's name, if it differs from the model's own `published`."""
    accepts: Callable[[Mapping[str, Tensor]], bool] = lambda _state: True
    """Return whether tensors with the signature's keys also have this layout's shapes."""
    of_images: bool = False
    """Of an image network, for a hybrid: paths in time, which it lacks, start as identity (see `inflate`)."""
    renames_into: Callable[[VideoModel], Renames] | None = None
    """Return the renames for a model whose names depend on its settings, in place of `renames`."""
    lacks: Callable[[VideoModel], Iterable[str]] = lambda _model: ()
    """Return names of tensors in a model that such weights never have; the model keeps its own."""
    check: Callable[[VideoModel, Facts], list[str]] = lambda _model, _facts: []
    """Return remarks on what tensors do not show of their network. Raises UserError where the model contradicts it."""

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Return whether these tensors are in this layout."""
        has_all = all(any(matched(template, key) is not None for key in state) for template in self.signature)
        return has_all and self.accepts(state)

    def to_ours(self, state: Mapping[str, Tensor]) -> State:
        """Return the tensors under the names used here; a key that no row matches keeps its name, to be reported."""
        kept = {key: value for key, value in state.items() if not self.is_computed(key)}
        return {renamed(key, self.renames): value for key, value in self.fix(kept).items()}

    def for_model(self, model: VideoModel) -> Layout:
        """Return the layout with the renames for this very model."""
        return self if self.renames_into is None else replace(self, renames=self.renames_into(model))

    def to_theirs(self, state: Mapping[str, Tensor]) -> State:
        """Return the tensors under their names, in their shapes."""
        back = tuple((ours, theirs) for theirs, ours in self.renames)
        return self.unfix({renamed(key, back): value for key, value in state.items()})

    def is_computed(self, key: str) -> bool:
        """Return whether models compute a tensor for themselves here."""
        return any(matched(template, key) is not None for template in self.computed)


def renamed(key: str, renames: Renames) -> str:
    """Rename a key by the first row whose left side matches it."""
    for left, right in renames:
        if (values := matched(left, key)) is not None:
            return right.format(**values)
    return key


def matched(template: str, key: str) -> dict[str, str] | None:
    """Return what the braces of a template stand for in a key; None if it does not match the complete key."""
    found = pattern(template).fullmatch(key)
    return None if found is None else found.groupdict()


@lru_cache(maxsize=4096)
def pattern(template: str) -> re.Pattern[str]:
    """Compile a template: `{i}`, `{j}`, `{s}`, `{b}` match a number, other words letters and underscores."""
    text = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(
        re.sub(r"{(\w+)}", lambda m: f"(?P<{m[1]}>{r'[0-9]+' if m[1] in 'ijsb' else '[a-z_A-Z]+'})", text)
    )


def numbers_of(template: str, state: Mapping[str, Tensor]) -> list[int]:
    """Return the sorted values of `{i}` in keys that match, such as the blocks of a network."""
    found = {int(values["i"]) for key in state if (values := matched(template, key)) is not None}
    return sorted(found)
