"""The interface of every model, whatever its architecture.

x_BCTHW  float clip, normalised          grid_BTHWC  features, channels last          logits_BK
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from hybridvideo.config.data import ClipConfig, FrameConfig, Normalisation, Preprocessing
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import UserError, nearest
from hybridvideo.folders import replacing_folder
from hybridvideo.models.card import ModelCard, check_free, write_checkpoint
from hybridvideo.models.checks import check_classes, check_clip
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.shortcuts import literally
from hybridvideo.models.readings import Cost, listening, places_to_read
from hybridvideo.parsing import plain


class Grids:
    """The grids of the requested stages, by name."""

    def __init__(self, stages: Iterable[str]) -> None:
        self.stages = frozenset(stages)
        self.grids: dict[str, Tensor] = {}

    def put(self, stage: str, grid_BTHWC: Tensor) -> None:
        """Keep the grid if it was requested."""
        if stage in self.stages:
            self.grids[stage] = grid_BTHWC


NOTHING = Grids(())


@dataclass(frozen=True)
class Outputs:
    """What a call in training mode may return instead of logits (B, K); in evaluation mode a call returns logits alone.

    `auxiliary`: named tensors for the objective. Their names say what classification does with them:

        logits_NAME  (B, K)  of a further classifier: its cross-entropy with the same targets is added to the loss
        cost_NAME    (B,)    a cost of each clip, weighted by the model: added to the loss as it is
        others       any     gates, features, reconstructions, for objectives that know them

    `supervised`: whether `logits` themselves have a part in the loss. False if they only combine auxiliary logits,
    each of which is trained by itself.
    """

    logits: Tensor
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    supervised: bool = True


class VideoModel(nn.Module, ABC):
    """Base of all models: `model(x_BCTHW) -> logits_BK`, always logits, never probabilities.

    In evaluation a call returns logits alone. In training a model may return `Outputs` instead, whose `logits` are
    the same and whose `auxiliary` tensors an objective may use.

    A subclass sets `config`, `num_classes`, `num_features`, `input_shape`, `normalisation` and `classifier_name`, and
    defines the abstract methods; everything else follows from them.
    """

    config: Any  # a dataclass: everything that the architecture depends on
    num_classes: int
    num_features: int  # channels of forward_head(..., pre_logits=True)
    input_shape: tuple[int, int, int, int]  # (C, T, H, W) of the standard input
    normalisation: Normalisation  # of the input; belongs to the weights
    classifier_name: str  # of the last linear layer, as in named_modules()
    labels: tuple[str, ...] | None = None  # names of the classes, if they came with weights
    preprocessing: Preprocessing | None = None  # of a video, if it came with weights
    card: ModelCard | None = None  # of a loaded checkpoint
    name: str | None = None  # as for create_model, which sets it
    grad_checkpointing: bool = False  # see set_grad_checkpointing
    notes: tuple[str, ...] = ()  # lines that a command should show to its user
    inflation: Literal["mean", "centre"] = "mean"  # of 2-D kernels into its kernels over time
    least_side: int = 1  # fewest rows and columns of a frame

    def forward(self, x_BCTHW: Tensor) -> Tensor | Outputs:
        """Return logits (B, K). Raises UserError for anything but float clips (B, 3, T, H, W) of sufficient size."""
        return self.forward_head(self.forward_features(x_BCTHW))

    def forward_features(self, x_BCTHW: Tensor) -> Tensor:
        """Return the last grid (B, T, H, W, C)."""
        return self.forward_stages(self.first_grid(x_BCTHW))

    def forward_intermediates(self, x_BCTHW: Tensor, stages: Sequence[str]) -> list[Tensor]:
        """Return the grids after the named stages, in that order. Raises UserError for an unknown name."""
        self.check_stages(stages)
        keep = Grids(stages)
        self.forward_stages(self.first_grid(x_BCTHW), keep)
        return [keep.grids[name] for name in stages]

    def readings(self, x_BCTHW: Tensor) -> dict[str, Tensor]:
        """Run a forward pass and return what the parts let be read of it, by their place in the network.

        Gates (`...gate.values`, broadcastable to the grid), the path of each clip (`...path`, one-hot (B, 2):
        convolution, attention), weights of channels or positions, maps of branches (B, T, H, W). Empty for a model
        without such parts. In the mode and with the gradients of the moment; frames are on axis 1 if there are any.
        """
        with listening(places_to_read(self)) as seen:
            self(x_BCTHW)
        return seen

    def with_costs(self, call: Callable[[], Tensor | Outputs]) -> Tensor | Outputs:
        """Return `call()`, and in training what parts cost each clip, `cost_paths`: the mean over those that say so."""
        places = {name: place for name, place in places_to_read(self).items() if isinstance(place, Cost)}
        if not (self.training and places):
            return call()
        with listening(places) as costs_B:
            out = call()
        outputs = out if isinstance(out, Outputs) else Outputs(out)
        cost_B = torch.stack(list(costs_B.values())).mean(0)
        return replace(outputs, auxiliary={**outputs.auxiliary, "cost_paths": cost_B})

    def first_grid(self, x_BCTHW: Tensor) -> Tensor:
        """Check the clip and return `forward_stem` of it, checkpointed if requested."""
        check_clip(x_BCTHW, self.input_shape, self.least_side)
        grid: Tensor = self.run_block(self.forward_stem, x_BCTHW)
        return grid

    def check_stages(self, stages: Sequence[str]) -> None:
        """Raise UserError unless every name is one of `stage_names`."""
        for name in stages:
            if name not in self.stage_names:
                hint = nearest(name, self.stage_names)
                raise UserError(f"no stage {name!r} in this model{hint}; it has {', '.join(self.stage_names)}")

    @property
    @abstractmethod
    def stage_names(self) -> list[str]:
        """Names of the stages in order; the first is `stem`."""

    @abstractmethod
    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        """Return the first grid (B, T', H', W', C')."""

    @abstractmethod
    def forward_stages(self, grid_BTHWC: Tensor, keep: Grids = NOTHING) -> Tensor:
        """Return the grid after all stages; `keep` keeps the requested ones among the earlier."""

    @abstractmethod
    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, K), or with `pre_logits` the pooled features (B, num_features) before the classifier."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that must not decay, in addition to all vectors and scalars."""

    @abstractmethod
    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Return all parameters, from input to classifier, in groups that may be unfrozen or scaled together."""

    def settings(self) -> dict[str, Any]:
        """Return plain data from which `create_model(name, num_classes, **settings)` builds this architecture."""
        settings: dict[str, Any] = plain(self.config)
        return settings

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one with this many classes."""
        check_classes(num_classes)
        parent, _, name = self.classifier_name.rpartition(".")
        old: Any = self.get_submodule(self.classifier_name)
        with torch.inference_mode(False):  # the model may be trained later, whatever mode the caller is in
            new = Linear(self.num_features, num_classes).to(old.weight.device, old.weight.dtype)
            self.init_classifier(new)
        setattr(self.get_submodule(parent), name, new)
        self.num_classes, self.labels = num_classes, None

    def save(self, folder: str | Path, labels: Sequence[str] | None = None) -> None:
        """Write a checkpoint folder for `load_model` and every command; it is complete, or as it was before.

        Preprocessing and views are those that came with the weights, else the standard input with a stride of 1.

        Args:
            folder: new, empty, or an existing checkpoint, which is replaced.
            labels: names of the classes, in the order of the logits; default: the model's own, else their numbers.

        Raises:
            UserError: the number of labels differs from that of classes, or the folder holds something else.
            EnvironmentFault: the folder cannot be written to.
        """
        names = tuple(labels or self.labels or map(str, range(self.num_classes)))
        if len(names) != self.num_classes:
            raise UserError(f"{len(names)} labels for {self.num_classes} classes; give one name for each class")
        check_free(Path(folder), overwrite=True)
        with replacing_folder(Path(folder)) as new:
            write_checkpoint(new, self.state_dict(), self.new_card(names))

    def new_card(self, labels: tuple[str, ...]) -> ModelCard:
        """Return the card that belongs to the present weights."""
        if self.name is None:
            raise UserError("this model cannot be loaded by name; build it with create_model or load_model to save it")
        _, T, H, W = self.input_shape
        standard = Preprocessing(ClipConfig(frames=T, stride=1), FrameConfig(H, W), self.normalisation)
        views = self.card.eval if self.card is not None else EvalConfig()
        origin = self.card.origin if self.card is not None else None
        return ModelCard(self.name, labels, self.settings(), self.preprocessing or standard, views, origin)

    def init_classifier(self, layer: nn.Linear) -> None:
        """Initialise with small normal weights and zero bias, so that the first predictions are even."""
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        with torch.inference_mode(False):  # the model may be trained later, whatever mode the caller is in
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """In training, recompute activations inside stem and blocks: less memory for one more forward pass."""
        self.grad_checkpointing = enable

    def run_block(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Return `block(*inputs)`, checkpointed if requested. Stem and blocks are called through this."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            if torch.compiler.is_compiling():  # a compiled graph updates statistics once by itself
                return checkpoint(block, *inputs, use_reentrant=False)
            contexts = lambda: (nullcontext(), kept_statistics(self))  # noqa: E731
            return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)
        return block(*inputs)

    def has_frozen_part(self) -> bool:
        """Whether `forward_frozen` computes anything that training leaves unchanged."""
        return False

    def forward_frozen(self, x_BCTHW: Tensor) -> Tensor:
        """Compute everything before the first trained parameter; cacheable if no augmentation is random."""
        return x_BCTHW

    def frozen_settings(self) -> dict[str, Any]:
        """Return the settings that the output of `forward_frozen` depends on."""
        return self.settings()

    def forward_rest(self, frozen: Tensor) -> Tensor | Outputs:
        """Return what a call returns, from the output of `forward_frozen`."""
        out: Tensor | Outputs = self(frozen)
        return out


class AfterFrozen(nn.Module):
    """A model that takes the output of its frozen part: trained in its place once that output is cached."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frozen: Tensor) -> Tensor | Outputs:
        """Return what a call of the model returns."""
        return self.model.forward_rest(frozen)


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Let normalisation layers compute as in training but leave their statistics alone: they were updated before."""
    norms = [layer for layer in model.modules() if isinstance(layer, _NormBase) and layer.training]
    kept = [(layer, name, buffer) for layer in norms for name, buffer in layer.named_buffers(recurse=False)]
    for layer, name, buffer in kept:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_trained(model: nn.Module) -> int:
    """Return the number of parameters that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_gmacs(model: VideoModel, input_shape: tuple[int, int, int, int] | None = None) -> float:
    """Return billions of multiply-adds of a forward pass of one view: what this field calls GFLOPs.

    Counted without the shortcuts that models take, so that the number is the papers' and the same on every device;
    a model on `meta` costs neither time nor memory.
    """
    from torch.utils.flop_counter import FlopCounterMode

    shape = input_shape or model.input_shape
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with torch.no_grad(), literally(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device=device))
    model.train(training)
    return counter.get_total_flops() / 2e9
