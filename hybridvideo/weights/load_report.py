"""Report on each tensor when weights are loaded into a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from hybridvideo.config.data import Normalisation
from hybridvideo.weights.recognise import OWN_LAYOUT

Shape = tuple[int, ...]


@dataclass
class LoadReport:
    """What happened to each tensor, by its name here; `str(report)` is one line."""

    layout: str = OWN_LAYOUT
    """Code base whose names the source has."""
    matched: list[str] = field(default_factory=list)
    """Loaded: unchanged, resized, inflated or filled in."""
    resized: list[str] = field(default_factory=list)
    """Of those, position tables that had another size."""
    inflated: list[str] = field(default_factory=list)
    """Of those, 2-D kernels repeated over time."""
    filled: list[str] = field(default_factory=list)
    """Of those, tensors that the source lacks and its layout derives from others (temporal attention ...)."""
    fresh: list[str] = field(default_factory=list)
    """Left as they were in the model on request: a classifier that is yet to be trained."""
    missing: list[str] = field(default_factory=list)
    """In the model, not in the source; an error unless empty."""
    unexpected: list[str] = field(default_factory=list)
    """In the source, not in the model; an error unless empty."""
    unfit: list[str] = field(default_factory=list)
    """Of another shape; an error unless empty."""
    left_out: list[str] = field(default_factory=list)
    """Not loaded, by their names in the source: an unwanted classifier, and buffers that models compute here."""
    shapes: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    """Shapes in the source and in the model of what was resized, inflated or unfit."""
    notes: list[str] = field(default_factory=list)
    """Remarks, such as which of several sets of weights in a file was taken."""
    normalisation: Normalisation | None = None
    """Normalisation of the input if the source or its authors state it; the model then has it too."""

    def __str__(self) -> str:
        adapted = [("resized", self.resized), ("inflated", self.inflated), ("filled in", self.filled)]
        counts = ", ".join(f"{len(names)} {how}" for how, names in adapted if names)
        fresh = f", {len(self.fresh)} new" if self.fresh else ""
        return (
            f"{len(self.matched)} tensors loaded{f' ({counts})' if counts else ''}{fresh}, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected; layout: {self.layout}"
        )

    def details(self) -> str:
        """Return the notes and a line for each tensor that was not simply copied, with its shapes."""
        lines = [f"resized {name}: {self.change(name)}" for name in self.resized]
        lines += [f"inflated {name}: {self.change(name)}" for name in self.inflated]
        lines += [f"filled {name}" for name in self.filled]
        lines += [f"fresh {name}" for name in self.fresh]
        lines += [f"left out {name}" for name in self.left_out]
        return "\n".join([*self.notes, *lines])

    def change(self, name: str) -> str:
        """Return `shape in the source -> shape in the model`."""
        source, own = self.shapes[name]
        return f"{source} -> {own}"
