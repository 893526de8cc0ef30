"""What a foreign checkpoint looks like: how its keys are recognised, what each is called here, what must be reshaped.

A rename table is a list of (theirs, ours), one row per module or tensor, with braces for what is the same on both
sides: `{i}` a number, `{p}` the parameter (weight, bias, running_mean ...).

    ("blocks.{i}.attn.qkv.{p}", "blocks.{i}.attention.qkv.{p}")

The first row that matches a key whole renames it; the same table read from right to left gives the way back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from hybridvideo.models.variants import Published

State = dict[str, Tensor]
Renames = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Layout:
    """One foreign layout, for one family of models."""

    name: str
    """For messages: "TimeSformer (Hugging Face)"."""
    family: str
    """Class of the models its weights fit, such as "TimeSformer"."""
    signature: tuple[str, ...]
    """Keys that this layout has, all of them, as templates."""
    renames: Renames
    architecture: Callable[[State], tuple[str, dict[str, Any]]]
    """(model name, changes) for `create_model`, read off the tensors as they lie in the file."""
    computed: tuple[str, ...] = ()
    """Templates of buffers that the models here compute for themselves; they are left out."""
    fix: Callable[[State], State] = dict
    """Their tensors under their names -> of the shapes used here; done before renaming."""
    unfix: Callable[[State], State] = dict
    """The way back, after renaming back."""
    adapt: Callable[[State, Mapping[str, Tensor]], State] = lambda state, _own: state
    """With the model's own state at hand: fills what the layout does not have (a time axis, temporal attention)."""
    published: Callable[[str], Published | None] = lambda _name: None
    """What is known of its weights by the model's name, where that differs from the model's own `published`."""
    accepts: Callable[[Mapping[str, Tensor]], bool] = lambda _state: True
    """Of tensors with the signature's keys: whether their shapes are this layout's."""

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether these are tensors of this layout."""
        has_all = all(any(matched(template, key) is not None for key in state) for template in self.signature)
        return has_all and self.accepts(state)

    def to_ours(self, state: Mapping[str, Tensor]) -> State:
        """Tensors under the names used here; a key of no row keeps its own, to be reported as unexpected."""
        kept = {key: value for key, value in state.items() if not self.is_computed(key)}
        return {renamed(key, self.renames): value for key, value in self.fix(kept).items()}

    def to_theirs(self, state: Mapping[str, Tensor]) -> State:
        """The way back."""
        back = tuple((ours, theirs) for theirs, ours in self.renames)
        return self.unfix({renamed(key, back): value for key, value in state.items()})

    def is_computed(self, key: str) -> bool:
        """Whether a tensor is computed here anew."""
        return any(matched(template, key) is not None for template in self.computed)


def renamed(key: str, renames: Renames) -> str:
    """The key under the first row whose left side matches it."""
    for left, right in renames:
        if (values := matched(left, key)) is not None:
            return right.format(**values)
    return key


def matched(template: str, key: str) -> dict[str, str] | None:
    """What the braces of a template stand for in a key; None where it does not match whole."""
    found = pattern(template).fullmatch(key)
    return None if found is None else found.groupdict()


@lru_cache(maxsize=4096)
def pattern(template: str) -> re.Pattern[str]:
    """`{p}` and other words: letters and underscores; `{i}`, `{j}`, `{s}`, `{b}`: a number."""
    text = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(
        re.sub(r"{(\w+)}", lambda m: f"(?P<{m[1]}>{r'[0-9]+' if m[1] in 'ijsb' else '[a-z_A-Z]+'})", text)
    )


def numbers_of(template: str, state: Mapping[str, Tensor]) -> list[int]:
    """The sorted values of `{i}` among keys that match: which blocks there are."""
    found = {int(values["i"]) for key in state if (values := matched(template, key)) is not None}
    return sorted(found)
