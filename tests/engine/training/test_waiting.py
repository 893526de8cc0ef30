"""Between the first forward pass of a step and its end, nothing on the host waits for a value of the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hybridvideo.config.data import AugmentConfig
from hybridvideo.config.training import OptimConfig
from hybridvideo.engine.training import loop
from hybridvideo.engine.training.classification import Classification
from hybridvideo.engine.training.loop import fit
from hybridvideo.engine.training.objective import Loss, Objective
from hybridvideo.models import create_model
from tests.engine.training.fits import MemoryFeeds, TwoHeads, TwoLosses, phase, plan
from tests.engine.training.runs import TINY_MODEL

WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item"}


class Waits(TorchDispatchMode):
    """Notes the operations for whose result a host waits, once a forward pass has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.operations, self.found = False, 0, list[str]()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.operations += self.begun
        if self.begun and name in WAITING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """Those of all steps that are taken from now on."""
    watch, real = Waits(), loop.take_step

    def watched(trainee: Any, *arguments: Any, **named: Any) -> Any:
        watch.begun = False
        hook = trainee.wrapped.register_forward_pre_hook(lambda *_: setattr(watch, "begun", True))
        with watch:
            outcome = real(trainee, *arguments, **named)
        watch.begun = False
        hook.remove()
        return outcome

    monkeypatch.setattr(loop, "take_step", watched)
    return watch


def hybrid() -> tuple[nn.Module, Classification]:
    """A small hybrid with BatchNorm, dropout and stochastic depth."""
    changes: Any = TINY_MODEL["changes"]
    changes = {**changes, "head": {"norm": "batch", "dropout": 0.2}}
    model = create_model("hybrid", 4, frames=4, height=16, width=16, **changes)
    return model, Classification(("a", "b", "c", "d"), model.normalisation, AugmentConfig(), 0.1)


@pytest.mark.parametrize("bad", [(), (2, 5)])
def test_no_step_waits_for_the_device(waits: Waits, bad: tuple[int, ...]) -> None:
    model, objective = hybrid()
    settings = plan(phase(2), optim=OptimConfig(ema=0.9), accumulate=2)
    done = fit(model, settings, objective, MemoryFeeds(Accelerator(cpu=True), bad=bad))
    assert waits.operations > 1000 and waits.found == []
    assert done.state.step == 4 and done.state.skipped == 0


def test_mixing_draws_before_the_forward_pass_and_waits_for_nothing_after(waits: Waits) -> None:
    model, objective = hybrid()
    mixing = Classification(objective.labels, objective.normalisation, AugmentConfig(mixup=0.8, cutmix=1.0))
    fit(model, plan(), mixing, MemoryFeeds(Accelerator(cpu=True)))
    assert waits.operations > 1000 and waits.found == []


def test_a_gradient_scaler_and_a_skipped_step_wait_for_nothing(waits: Waits) -> None:
    class Sometimes(TwoLosses):
        def loss(self, trainee: nn.Module, batch: Any, place: Any) -> Loss:
            loss = super().loss(trainee, batch, place)
            return Loss(loss.sum * (float("nan") if place.batch == 1 else 1.0), loss.scalars)

    accelerator = Accelerator(cpu=True)
    try:
        accelerator.state._mixed_precision = "fp16"
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=16.0)
        done = fit(TwoHeads(), plan(), Sometimes(), MemoryFeeds(accelerator), accelerator=accelerator)
    finally:
        AcceleratorState._reset_state(True)
    assert waits.operations > 100 and waits.found == []
    assert done.state.skipped == 2 and accelerator.scaler.get_scale() == 4.0


def test_an_objective_that_waits_is_found(waits: Waits) -> None:
    class Waiting(TwoLosses):
        def loss(self, trainee: nn.Module, batch: Any, place: Any) -> Loss:
            loss = super().loss(trainee, batch, place)
            assert loss.sum.detach() > 0
            return loss

    objective: Objective = Waiting()
    fit(TwoHeads(), plan(phase(1)), objective, MemoryFeeds(Accelerator(cpu=True)))
    assert waits.found == ["_local_scalar_dense"] * 3
