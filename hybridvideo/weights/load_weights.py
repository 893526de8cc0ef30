"""Weights into a model, strictly: what does not fit is an error, what was adapted is reported.

source -> tensors (sources) -> whose layout (recognise) -> renamed, adapted -> fitted (fit) -> checked -> the model
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from hybridvideo.config.data import Normalisation
from hybridvideo.errors import UserError
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.open_source import From, Source, open_source
from hybridvideo.weights.recognise import OWN_LAYOUT, Recognised, likely_architecture, recognise
from hybridvideo.weights.resize import fit_tensor

Head = Literal["strict", "replace", "drop"]
MOST_NAMED = 3  # tensors of each kind in an error
COUNTERS = "num_batches_tracked"  # of BatchNorm; torch before 0.4.1 had none, and nothing here reads them


@dataclass
class LoadReport:
    """What became of each tensor, by its name here."""

    layout: str = OWN_LAYOUT
    """Whose names the source has."""
    matched: list[str] = field(default_factory=list)
    """Loaded: as they are, resized, inflated or filled in."""
    resized: list[str] = field(default_factory=list)
    """Of those, tables of positions at another size."""
    inflated: list[str] = field(default_factory=list)
    """Of those, 2-D kernels repeated over time."""
    filled: list[str] = field(default_factory=list)
    """Of those, tensors that the source does not have and its layout makes from others (temporal attention ...)."""
    fresh: list[str] = field(default_factory=list)
    """Left as they were in the model, as was asked for: a classifier that is to be trained."""
    missing: list[str] = field(default_factory=list)
    """In the model, not in the source; an error unless empty."""
    unexpected: list[str] = field(default_factory=list)
    """In the source, not in the model; an error unless empty."""
    unfit: list[str] = field(default_factory=list)
    """Of another shape; an error unless empty."""
    left_out: list[str] = field(default_factory=list)
    """Names in the source: a classifier that was not wanted, and what the models here compute for themselves."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    """Shape in the source and in the model, of the resized, inflated and unfit."""
    notes: list[str] = field(default_factory=list)
    """Which of several sets of weights in a file was taken, and the like."""
    normalisation: Normalisation | None = None
    """Of the input, where the source or its authors say it; the model's is then this one."""

    def __str__(self) -> str:
        adapted = [("resized", self.resized), ("inflated", self.inflated), ("filled in", self.filled)]
        counts = ", ".join(f"{len(names)} {how}" for how, names in adapted if names)
        fresh = f", {len(self.fresh)} new" if self.fresh else ""
        return (
            f"{len(self.matched)} tensors loaded{f' ({counts})' if counts else ''}{fresh}, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected; layout: {self.layout}"
        )

    def details(self) -> str:
        """A line for each tensor that is not simply what the source has, with its shapes."""
        lines = [f"{how} {name}: {self.change(name)}" for how in ("resized", "inflated") for name in getattr(self, how)]
        lines += [f"{how} {name}" for how in ("filled", "fresh", "left_out") for name in getattr(self, how)]
        return "\n".join([*self.notes, *lines]).replace("left_out", "left out")

    def change(self, name: str) -> str:
        """`shape in the source -> shape in the model`."""
        source, own = self.shapes[name]
        return f"{source} -> {own}"


def load_weights(model: VideoModel, source: From, head: Head = "strict") -> LoadReport:
    """Load weights of any known layout into `model`.

    Position tables of another size are resized, 2-D kernels inflated over time; all else must fit exactly. Where the
    source says how its input is normalised, or its layout what was published of that, `model.normalisation` becomes
    this. If it fails the model is as it was.

    Args:
        model: receives the weights, in place.
        source: a run folder, a checkpoint folder, a file (.safetensors, .pth, .pt, .pyth, .bin, .ckpt; pickles are
            read without running them), a Hugging Face folder, `torchvision:NAME[.WEIGHTS]`, `hf:OWNER/REPO`, or a
            state dict. The layout is recognised by its keys.
        head: strict: the classifier must fit. replace: where it does not, the model keeps its own. drop: the model
            keeps its own always.

    Returns:
        What became of each tensor; `str(report)` is one line, `report.details()` a line per adapted tensor.

    Raises:
        UserError: nothing to read there, no known layout, a tensor missing, unexpected or of another shape.
        EnvironmentFault: it must be downloaded and cannot be.
    """
    if head not in ("strict", "replace", "drop"):
        raise UserError(f"head is {head!r}; give strict, replace or drop")
    opened = open_source(source)
    return load_opened(model, opened, recognise(opened.state, model, opened.where), head)


def load_opened(model: VideoModel, source: Source, known: Recognised, head: Head = "strict") -> LoadReport:
    """Tensors of a source, already recognised, into `model`; see `load_weights`."""
    own = model.state_dict()
    report = LoadReport(known.layout_name, notes=list(source.notes), normalisation=normalisation_of(source, known))
    renamed = known.renamed(source.where)
    if known.layout is not None:
        report.left_out = [key for key in known.state if known.layout.is_computed(key)]
    wanted = fit_head(model, renamed, own, head, source.where, report)
    adapted = known.adapted(wanted, own, source.where)
    report.filled = [name for name in adapted if name not in wanted and name in own]
    loaded = fit_all(adapted, own, report)
    report.missing = [name for name in own if name not in adapted and name not in report.fresh]
    report.unexpected = [name for name in adapted if name not in own]
    check(source, known, report)
    with torch.no_grad():
        for name, tensor in loaded.items():
            own[name].copy_(tensor)
    if report.normalisation is not None:
        model.normalisation = report.normalisation
    return report


def normalisation_of(source: Source, known: Recognised) -> Normalisation | None:
    """Of the input: as the source says, else as was published of weights of its layout; None: nothing is known."""
    if source.facts.normalisation is not None or known.layout is None:
        return source.facts.normalisation
    told = likely_architecture(known.layout, known.state)
    figure = known.layout.published(told[0]) if told else None
    return figure.normalisation if figure else None


def fit_head(
    model: VideoModel, state: Mapping[str, Tensor], own: Mapping[str, Tensor], head: Head, where: str,
    report: LoadReport,
) -> dict[str, Tensor]:  # fmt: skip
    """Without the classifier's tensors where the model keeps its own; UserError where it has other classes."""
    name = f"{model.classifier_name}.weight"
    fits = name in state and state[name].shape == own[name].shape
    if head == "drop" or (head == "replace" and not fits):
        report.fresh += [key for key in own if is_head(model, key)]
        report.left_out += [key for key in state if is_head(model, key)]
        return {key: value for key, value in state.items() if not is_head(model, key)}
    if not any(is_head(model, key) for key in state):
        raise UserError(
            f"{where} has no classifier ({name}); head=replace (`hybridvideo train --model.head replace`) trains a new "
            "one on its features"
        )
    if name in state and (theirs := state[name].shape[:1]) != (ours := own[name].shape[:1]):
        raise UserError(
            f"{where} has {theirs.numel()} classes, the model {ours.numel()}; "
            "use the label set of the weights, or head=replace (`hybridvideo train --model.head replace`) to train a "
            "new classifier"
        )
    return dict(state)


def is_head(model: VideoModel, name: str) -> bool:
    """Whether a tensor belongs to the classifier."""
    return name.startswith(f"{model.classifier_name}.")


def fit_all(state: Mapping[str, Tensor], own: Mapping[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """The tensors in the model's shapes; what was done to each goes into the report."""
    loaded = {}
    for name in own:
        if name not in state:
            report.fresh += [name] if name.endswith(COUNTERS) else []
            continue
        fit = fit_tensor(name, state[name], own[name])
        if fit is None or fit.how != "as it is":
            report.shapes[name] = (tuple(state[name].shape), tuple(own[name].shape))
        if fit is None:
            report.unfit.append(name)
            continue
        loaded[name] = fit.tensor
        report.matched.append(name)
        report.resized += [name] if fit.how == "resized" else []
        report.inflated += [name] if fit.how == "inflated" else []
    return loaded


def check(source: Source, known: Recognised, report: LoadReport) -> None:
    """UserError for tensors that are missing, unexpected or of another shape: how many, the first of them, what to do.

    One check for all, before anything is changed.
    """
    if not (report.missing or report.unexpected or report.unfit):
        return
    shapes = [f"{name}: {report.change(name)}" for name in report.unfit]
    kinds = [("missing", report.missing), ("unexpected", report.unexpected), ("of another shape", shapes)]
    faults = [f"{len(names)} {kind} ({first(names)})" for kind, names in kinds if names]
    raise UserError(f"{source.where} does not fit this model: {', '.join(faults)}; {advice(known)}")


def first(names: list[str]) -> str:
    """The first few."""
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def advice(known: Recognised) -> str:
    """What to build instead."""
    told = likely_architecture(known.layout, known.state) if known.layout else None
    if known.layout is None or told is None:
        return "build the model that the weights belong to"
    name, changes = told
    called = ", ".join([repr(name), *(f"{key}={value!r}" for key, value in changes.items())])
    return f"these {known.layout.name} weights are of create_model({called})"
