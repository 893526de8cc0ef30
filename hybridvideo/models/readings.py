"""What can be read of a forward pass: a gate's values, the path that a clip took, a map of each branch.

A part passes a tensor through a `Reading`, which returns it unchanged. `VideoModel.readings` listens to all of them
during one forward pass and returns what they saw, by their place in the network; otherwise they cost nothing.

    g_BTHWC = self.values(g_BTHWC)        # self.values = Reading(), in a part
    model.readings(x)                     # {"stages.0.blocks.1.branches.0.inner.gate.values": ...}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class Reading(nn.Module):
    """A tensor on its way through a part, returned as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] | None = None  # a list while somebody listens

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is not None:
            self.kept.append(self.shown(x))
        return x

    def shown(self, x: Tensor) -> Tensor:
        """What is kept of the tensor."""
        return x


class BranchMap(Reading):
    """How strong a branch is at each position: the root mean square of its channels, (B, T, H, W)."""

    def shown(self, x: Tensor) -> Tensor:
        return x.float().square().mean(-1).sqrt()


class Cost(Reading):
    """A cost of each clip in training, (B): see `Outputs`."""


@contextmanager
def listening(places: Mapping[str, Reading]) -> Iterator[dict[str, Tensor]]:
    """Return a dict that holds, afterwards, the last tensor of each place that saw one."""
    seen: dict[str, Tensor] = {}
    for reading in places.values():
        reading.kept = []
    try:
        yield seen
        seen.update({name: reading.kept[-1] for name, reading in places.items() if reading.kept})
    finally:
        for reading in places.values():
            reading.kept = None


def places_to_read(model: nn.Module) -> dict[str, Reading]:
    """Return every place of a model that can be read, by name, in the order of its parts."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Reading)}
