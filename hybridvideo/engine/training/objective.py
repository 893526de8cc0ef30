"""What a model is trained for: the contract between an objective and the loop.

    loop                                          objective
    reads the batches of a step                   weight(batch)     how much counts in it, before any forward pass
    forward and backward, batch by batch          loss(...)         one sum over what counts, and named sums to log
    after each epoch                              validate(...)     named figures, one of which tells which is best
    saves a checkpoint                            state()           whatever the objective remembers

The loop divides the sum by what counts in all batches and processes of the step, and never looks inside: it knows
nothing of labels, logits or accuracy. `classification.py` is the first objective.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hybridvideo.config.data import Normalisation
from hybridvideo.data.device import normalise
from hybridvideo.data.mixing import batch_generator

Batch = dict[str, Any]  # of a feed: columns by name, tensors and lists of B clips
Figures = dict[str, float | int | None]
Gather = Callable[[Any], list[Any]]


@dataclass(frozen=True)
class Loss:
    """What came of one batch in one process, on the device. `sum` has a gradient.

    `sum`: over what counts. `scalars`: more sums over the same, for the log; the same names in every batch of a run.
    """

    sum: Tensor
    scalars: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where in the run a batch is: all of its randomness follows from this.

    `torch`'s own generator is seeded from it too, so dropout and its kin need no generator.
    """

    seed: int
    epoch: int
    batch: int
    rank: int
    """This process."""
    clips: Sequence[int]
    """How many clips of the batch could be read, by process."""

    def shared_generator(self) -> torch.Generator:
        """Return a generator on the CPU, the same in every process."""
        return batch_generator(self.seed, self.epoch, self.batch)


@dataclass(frozen=True)
class Best:
    """The figure by which the best checkpoint is chosen."""

    name: str
    higher: bool = True
    """Whether a higher value is better."""

    def beats(self, value: float, other: float) -> bool:
        """Return whether a value is better than another."""
        return value > other if self.higher else value < other


class Objective(ABC):
    """What a model is trained for. A new one is a subclass; the loop has no flags.

    Called under the autocast of the run's precision; sums must be float32. Nothing in `loss` may wait for a GPU: no
    `.item()`, no shape that depends on values.
    """

    best: Best | None = None

    def weight(self, batch: Batch) -> int:
        """Return how much counts in this process's batch, from facts on the host (`counts`: which clips are readable).

        0 leaves out a batch, if it is 0 in all processes.
        """
        return sum(batch["counts"])

    @abstractmethod
    def loss(self, trainee: nn.Module, batch: Batch, place: Place) -> Loss:
        """Return the loss of this process's batch, summed over what counts.

        Args:
            trainee: what is trained. Call it once, with everything that it needs.
            batch: on the device. Clips with `ok` false are zeros and must have no part in the sum; a batch may have
                no other.
            place: what randomness follows from.
        """

    @abstractmethod
    def validate(self, model: nn.Module, batches: Iterator[Batch], gather: Gather) -> Figures:
        """Return the figures of the validation list, in evaluation mode, without gradients; None if nothing counted.

        Args:
            model: the weights that count; called like the trainee.
            batches: this process's share, on the device. Take all of them.
            gather: value -> the values of all processes; all must call it equally often.
        """

    def summary(self, figures: Figures, best: float | None) -> list[str]:
        """Return the figures as phrases for the line printed after an epoch."""
        shown = [f"{name} {value:.4g}" for name, value in figures.items() if value is not None]
        return shown + ([f"best {best:.4g}"] if best is not None else [])

    def state(self) -> dict[str, Any]:
        """Return plain data and tensors that a resumed run needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        assert not state, state


def model_input(normalisation: Normalisation, batch: Mapping[str, Any]) -> Tensor:
    """Return normalised clips (B, C, T, H, W), or the outputs of the frozen part."""
    if "frozen" in batch:
        frozen: Tensor = batch["frozen"]
        return frozen
    return normalise(batch["clip"], normalisation, batch["contrast"])
