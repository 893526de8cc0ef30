"""Load weights into a model, strictly: what does not fit is an error, what was adapted is reported.

open the source -> recognise its layout -> rename and adapt -> resize or inflate -> check -> copy into the model
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from hybridvideo.config.data import Normalisation
from hybridvideo.errors import UserError, nearest
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.state_files import check_finite
from hybridvideo.models.towers import TOWERS, Towers
from hybridvideo.weights.layouts.inflate import identity_in_time, paths_in_time
from hybridvideo.weights.layouts.layout import Layout
from hybridvideo.weights.load_report import LoadReport
from hybridvideo.weights.open_source import From, open_source
from hybridvideo.weights.recognise import Recognised, likely_architecture, recognise
from hybridvideo.weights.resize import Inflation, fit_tensor
from hybridvideo.weights.source import Source

Head = Literal["strict", "replace", "drop"]
MOST_NAMED = 3  # tensors of each kind named in an error
LONGEST_ADVICE = 200  # characters of settings in an error
COUNTERS = "num_batches_tracked"  # of BatchNorm; torch before 0.4.1 had none, and nothing here reads them


def load_weights(model: VideoModel, source: From | Mapping[str, str], head: Head = "strict") -> LoadReport:
    """Load weights of any known layout into `model`.

    Position tables of another size are resized and 2-D kernels are inflated over time; everything else must fit
    exactly. If the source states how its input is normalised, or its authors published it, `model.normalisation` is set
    to that. After an error the model is as it was.

    Args:
        model: receives the weights, in place.
        source: a run folder, a checkpoint folder, a file (.safetensors, .pth, .pt, .pyth, .bin, .ckpt; pickles are
            read without running them), a Hugging Face folder, `torchvision:NAME[.WEIGHTS]`, `timm:NAME[.TAG]`,
            `hf:OWNER/REPO`, or a state dict. The layout is recognised by its keys. For towers also a mapping to one of
            these for each: `{"conv": ..., "attention": ...}`; see `load_towers`.
        head: strict: the classifier must fit. replace: if it does not fit, the model keeps its own. drop: the model
            always keeps its own.

    Returns:
        What became of each tensor; `str(report)` is one line, `report.details()` one line per adapted tensor.

    Raises:
        UserError: nothing to read, no known layout, or a tensor missing, unexpected or of another shape.
        EnvironmentFault: the weights cannot be downloaded.
    """
    if head not in ("strict", "replace", "drop"):
        raise UserError(f"head is {head!r}; give strict, replace or drop")
    if isinstance(source, Mapping) and source.keys() & set(TOWERS):
        return load_towers(model, source, head)
    opened = open_source(cast(From, source))
    return load_opened(model, opened, recognise(opened.state, model, opened.where), head)


def load_opened(model: VideoModel, source: Source, known: Recognised, head: Head = "strict") -> LoadReport:
    """Load the tensors of a source whose layout is recognised; see `load_weights`."""
    own = model.state_dict()
    remarks = known.layout.check(model, source.facts) if known.layout is not None else []
    notes = [*source.notes, *remarks]
    report = LoadReport(known.layout_name, notes=notes, normalisation=normalisation_of(source, known))
    renamed = known.renamed(source.where)
    if known.layout is not None:
        report.left_out = [key for key in known.state if known.layout.is_computed(key)]
    wanted = fit_head(model, renamed, own, head, source.where, report)
    adapted = known.adapted(wanted, own, source.where)
    if known.layout is not None and known.layout.of_images:
        adapted = {**identity_in_time(model), **adapted}
    if known.layout is not None:
        report.fresh += fresh_names(known.layout, model, adapted, report)
    report.filled = [name for name in adapted if name not in wanted and name in own]
    loaded = fit_all(adapted, own, report, model.inflation)
    report.missing = [name for name in own if name not in adapted and name not in report.fresh]
    report.unexpected = [name for name in adapted if name not in own]
    check_complete(source, known, report)
    check_finite(loaded, source.where)
    with torch.no_grad():
        for name, tensor in loaded.items():
            own[name].copy_(tensor)
    if report.normalisation is not None:
        model.normalisation = report.normalisation
    return report


def normalisation_of(source: Source, known: Recognised) -> Normalisation | None:
    """Return the normalisation the source states, or else the one published for its layout; None if unknown."""
    if source.facts.normalisation is not None or known.layout is None:
        return source.facts.normalisation
    architecture = likely_architecture(known.layout, known.state)
    figure = known.layout.published(architecture[0]) if architecture else None
    return figure.normalisation if figure else None


# --- tensors ----------------------------------------------------------------------------------------------------------


def fit_head(
    model: VideoModel,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    head: Head,
    where: str,
    report: LoadReport,
) -> dict[str, Tensor]:
    """Drop the classifier's tensors if the model keeps its own; UserError if it has other classes."""
    name = f"{model.classifier_name}.weight"
    fits = name in state and name in own and state[name].shape == own[name].shape
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


def fresh_names(layout: Layout, model: VideoModel, state: Mapping[str, Tensor], report: LoadReport) -> list[str]:
    """Return the names of tensors that weights of this layout never have, so that the model keeps its own."""
    lacking = [*layout.lacks(model), *(paths_in_time(model) if layout.of_images else ())]
    return [name for name in dict.fromkeys(lacking) if name not in state and name not in report.fresh]


def is_head(model: VideoModel, name: str) -> bool:
    """Return whether a tensor belongs to the classifier."""
    return name.startswith(f"{model.classifier_name}.")


def fit_all(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], report: LoadReport, inflation: Inflation
) -> dict[str, Tensor]:
    """Return the tensors in the model's shapes, and note in the report what was done to each."""
    loaded = {}
    for name in own:
        if name not in state:
            report.fresh += [name] if name.endswith(COUNTERS) else []
            continue
        fit = fit_tensor(name, state[name], own[name], inflation)
        if fit is None or fit.how != "unchanged":
            report.shapes[name] = (tuple(state[name].shape), tuple(own[name].shape))
        if fit is None:
            report.unfit.append(name)
            continue
        loaded[name] = fit.tensor
        report.matched.append(name)
        report.resized += [name] if fit.how == "resized" else []
        report.inflated += [name] if fit.how == "inflated" else []
    return loaded


# --- errors -----------------------------------------------------------------------------------------------------------


def check_complete(source: Source, known: Recognised, report: LoadReport) -> None:
    """Raise UserError for tensors that are missing, unexpected or of another shape: how many, which, what to do.

    All are checked together, before anything is changed.
    """
    if not (report.missing or report.unexpected or report.unfit):
        return
    shapes = [f"{name}: {report.change(name)}" for name in report.unfit]
    kinds = [("missing", report.missing), ("unexpected", report.unexpected), ("of another shape", shapes)]
    faults = [f"{len(names)} {kind} ({first(names)})" for kind, names in kinds if names]
    raise UserError(f"{source.where} does not fit this model: {', '.join(faults)}; {advice(known)}")


def first(names: list[str]) -> str:
    """Return the first few names."""
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def advice(known: Recognised) -> str:
    """Suggest the model to build instead."""
    architecture = likely_architecture(known.layout, known.state) if known.layout else None
    if known.layout is None or architecture is None:
        return "build the model that the weights belong to"
    name, changes = architecture
    arguments = ", ".join([repr(name), *(f"{key}={value!r}" for key, value in changes.items())])
    if len(arguments) > LONGEST_ADVICE:
        return (
            f"these {known.layout.name} weights belong to a {name} of other settings, which load_model(SOURCE) builds"
        )
    return f"these {known.layout.name} weights belong to create_model({arguments})"


# --- towers -----------------------------------------------------------------------------------------------------------


def load_towers(model: VideoModel, sources: Mapping[str, Any], head: Head) -> LoadReport:
    """Load weights of one network into each tower named, each of whose classifiers is left out.

    Each tower keeps the normalisation of its own weights, `model.normalisation` becomes the convolution's. After an
    error the model is as it was. Raises UserError as `load_weights` does, and for a model without towers.
    """
    names = ", ".join(sources)
    if not isinstance(model, Towers):
        raise UserError(f"weights for {names}, but a {type(model).__name__} is one network; give one source")
    if unknown := [name for name in sources if name not in TOWERS]:
        raise UserError(f"weights for {unknown[0]!r}{nearest(unknown[0], TOWERS)}; towers are {' and '.join(TOWERS)}")
    if head == "strict":
        raise UserError(
            f"weights for {names} have no classifier for both towers; head=replace (`hybridvideo train --model.head "
            "replace`) trains a new one"
        )
    towers = dict(model.towers)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    normalisations = {name: tower.normalisation for name, tower in towers.items()}
    try:
        reports = {name: load_tower(towers[name], source) for name, source in sources.items()}
    except BaseException:
        model.load_state_dict(before)
        for name, tower in towers.items():
            tower.normalisation = normalisations[name]
        raise
    model.normalisation = model.conv.normalisation
    report = joined(reports)
    report.normalisation = model.normalisation
    report.fresh += [name for name in before if name.partition(".")[0] not in TOWERS]
    return report


def load_tower(tower: VideoModel, source: From) -> LoadReport:
    """Load weights of a whole network into one that has no head."""
    opened = open_source(source)
    known = recognise(opened.state, tower, opened.where)
    if known.layout is None:
        known = replace(known, state={name: value for name, value in known.state.items() if not in_head(name)})
    return load_opened(tower, opened, known, "drop")


def in_head(name: str) -> bool:
    """Return whether a tensor of a hybrid belongs to its head."""
    return name.startswith("head.")


def joined(reports: Mapping[str, LoadReport]) -> LoadReport:
    """Return the reports on several networks as one on the model that holds them."""
    whole = LoadReport(", ".join(f"{report.layout} ({name})" for name, report in reports.items()))
    for name, report in reports.items():
        for field in fields(LoadReport):
            value = getattr(report, field.name)
            if field.name in ("notes", "left_out"):  # names in the source
                getattr(whole, field.name).extend(f"{name}: {each}" for each in value)
            elif isinstance(value, list):
                getattr(whole, field.name).extend(f"{name}.{each}" for each in value)
        whole.shapes.update({f"{name}.{each}": shapes for each, shapes in report.shapes.items()})
    return whole
