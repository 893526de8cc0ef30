"""What is computed from parameters, such as their cast to a lower precision, and kept until one of them changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Entry(NamedTuple):
    """A result, and what it was made from."""

    sources: tuple[weakref.ref[Tensor], ...]
    key: Hashable
    value: Any

    def is_of(self, sources: tuple[Tensor, ...], key: Hashable) -> bool:
        """Whether it was made from these very tensors, as they are now."""
        if len(sources) != len(self.sources) or key != self.key:
            return False
        return all(known() is source for known, source in zip(self.sources, sources, strict=True))


class Cached(nn.Module, Generic[T]):
    """One result, made again when a parameter that it depends on has changed. A submodule without state of its own.

    Nothing is kept where a gradient is wanted of the sources, in a compiled graph, or of inference tensors, whose
    changes cannot be told. What is kept is an ordinary tensor, so that it may enter any later graph. It goes with a
    change between training and evaluation, with `to()`, with `load_state_dict`, and copies and pickles are without it.

    A change is told by the tensor's version, which every in-place operation raises, and by its address. Writing through
    `parameter.data` raises no version and is not seen: write under `torch.no_grad()` to the parameter itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entry: Entry | None = None

    def get(self, sources: tuple[Tensor, ...], make: Callable[[], T], *settings: Hashable) -> T:
        """`make()`, or what it gave before for the same sources and settings (all else that it depends on)."""
        if torch.compiler.is_compiling() or not all(can_be_told(source) for source in sources):
            return make()
        key = (*settings, *((source.data_ptr(), source._version) for source in sources))
        entry = self.entry  # read once: another thread may put its own there
        if entry is None or not entry.is_of(sources, key):
            with torch.inference_mode(False), torch.no_grad():
                entry = self.entry = Entry(tuple(weakref.ref(source) for source in sources), key, make())
        kept: T = entry.value
        return kept

    def train(self, mode: bool = True) -> Cached[T]:
        """Training should not pay for the memory."""
        self.entry = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Cached[T]:
        self.entry = None  # a moved parameter may come to lie where another one lay
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        self.entry = None
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "entry": None}


def can_be_told(source: Tensor) -> bool:
    """Whether a change of the tensor shows, and no gradient of it is wanted."""
    if source.is_inference() or type(source) not in (Tensor, nn.Parameter):  # a subclass may have no address
        return False
    return not (torch.is_grad_enabled() and source.requires_grad)
