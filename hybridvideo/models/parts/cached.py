"""Values derived from parameters, such as their cast to a lower precision, kept until a parameter changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Entry(NamedTuple):
    """A cached value and what it was derived from."""

    sources: tuple[weakref.ref[Tensor], ...]
    key: Hashable
    value: Any

    def matches(self, sources: tuple[Tensor, ...], key: Hashable) -> bool:
        """Return whether the value was derived from these very tensors in their present state."""
        if len(sources) != len(self.sources) or key != self.key:
            return False
        return all(known() is source for known, source in zip(self.sources, sources, strict=True))


class Cached(nn.Module, Generic[T]):
    """One value, recomputed when a tensor that it depends on has changed. A submodule without state.

    This is the only cache of derived weights in the package. Its rules:

    - Nothing is cached while gradients of the sources are wanted, inside a compiled graph, or for inference tensors,
      whose changes cannot be detected.
    - The cached value is an ordinary tensor, even if computed under `inference_mode`, so it may enter any later graph.
    - Switching between training and evaluation, `to()` and `load_state_dict` clear it; copies and pickles omit it.
    - In-place changes are detected by the tensor's version counter and address. Writing through `parameter.data`
      does not raise the version and goes unnoticed: write to the parameter itself under `torch.no_grad()`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entry: Entry | None = None

    def get(self, sources: tuple[Tensor, ...], make: Callable[[], T], *settings: Hashable) -> T:
        """Return `make()`, or its earlier value for the same sources and settings (all else that it depends on)."""
        if torch.compiler.is_compiling() or not all(is_trackable(source) for source in sources):
            return make()
        key = (*settings, *((source.data_ptr(), source._version) for source in sources))
        entry = self.entry  # read once: another thread may replace it
        if entry is None or not entry.matches(sources, key):
            with torch.inference_mode(False), torch.no_grad():
                entry = self.entry = Entry(tuple(weakref.ref(source) for source in sources), key, make())
        value: T = entry.value
        return value

    def train(self, mode: bool = True) -> Cached[T]:
        """Clear the cache, so that training does not pay for its memory."""
        self.entry = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Cached[T]:
        self.entry = None  # a moved parameter may land at the address of another
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        self.entry = None
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "entry": None}


def is_trackable(source: Tensor) -> bool:
    """Return whether a change of the tensor can be detected and no gradient of it is wanted."""
    if source.is_inference() or type(source) not in (Tensor, nn.Parameter):  # a subclass may have no address
        return False
    return not (torch.is_grad_enabled() and source.requires_grad)
