"""Batches reach the device unchanged, pinned and ahead of their use, and are normalised there without a copy."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hybridvideo.config.data import Normalisation
from hybridvideo.data import device as device_module
from hybridvideo.data.device import device_batches, normalise
from hybridvideo.data.loader import EpochOrder, train_loader
from hybridvideo.data.manifest import Manifest
from tests.data.test_loader import clips, equal, manifest

__all__ = ["manifest"]  # the fixture

# ---- normalisation


def test_normalisation_is_that_of_the_weights() -> None:
    clip = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    statistics = Normalisation((0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (statistics.mean, statistics.std))
    result = normalise(clip, statistics)
    assert result.dtype == torch.float32 and result.is_contiguous()
    torch.testing.assert_close(result, (clip.float() / 255 - mean) / std)


def test_contrast_multiplies_the_normalised_clip() -> None:
    clip = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    plain = normalise(clip, Normalisation())
    assert torch.allclose(normalise(clip, Normalisation(), torch.tensor([1.0, 2.0]))[1], 2 * plain[1])


class Operators(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__.split(".")[0])
        return func(*args, **kwargs or {})


def test_the_statistics_are_copied_to_a_device_once() -> None:
    clip, statistics = torch.zeros((1, 3, 2, 4, 4), dtype=torch.uint8), Normalisation((0.11, 0.2, 0.3))
    normalise(clip, statistics)
    with Operators() as later:
        normalise(clip, Normalisation((0.11, 0.2, 0.3)))  # equal statistics, another object
    assert later.names == ["_to_copy", "mul_", "add_"]  # the one copy is that of the clip itself
    with Operators() as other:
        normalise(clip, Normalisation((0.12, 0.2, 0.3)))
    assert len(other.names) > 3


def test_statistics_first_used_in_an_evaluation_serve_training() -> None:
    clip, statistics = torch.zeros((1, 3, 2, 4, 4), dtype=torch.uint8), Normalisation((0.13, 0.2, 0.3))
    with torch.inference_mode():
        normalise(clip, statistics)
    weight = torch.ones((), requires_grad=True)
    (normalise(clip, statistics) * weight).sum().backward()
    assert weight.grad is not None
    assert not any(constant.is_inference() for constant in device_module.constants(statistics, clip.device))


# ---- transfer


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_arrive_on_the_gpu_unchanged(manifest: Manifest) -> None:
    sequence = EpochOrder(5, 0, batch_size=2)
    on_cpu = list(train_loader(clips(manifest), sequence, workers=0))
    loader = train_loader(clips(manifest), sequence, workers=1)
    on_gpu = list(device_batches(loader, torch.device("cuda")))
    assert all(batch["clip"].is_cuda for batch in on_gpu)
    back = [{k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in batch.items()} for batch in on_gpu]
    assert equal(on_cpu, back)


class FakeCuda:
    """Notes which device's streams are asked for; tensors stay where they are."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = torch.device("cuda", device.index or 0) if device else torch.device("cuda", 0)
        self.events: list[object] = []

    def record_event(self) -> object:
        return self.device

    def wait_event(self, event: object) -> None:
        self.events.append(event)


def fake_streams(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[torch.device, FakeCuda], list[FakeCuda]]:
    """Streams that compute, by device; and the one that each tensor was recorded on."""
    computing: dict[torch.device, FakeCuda] = {}
    kept: list[FakeCuda] = []

    def current_stream(device: torch.device | None = None) -> FakeCuda:
        stream = FakeCuda(device)
        return computing.setdefault(stream.device, stream)

    monkeypatch.setattr(torch.cuda, "Stream", FakeCuda)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: kept.append(stream), raising=False)
    return computing, kept


@pytest.mark.parametrize("name", ["cuda:1", "cuda:3", "cuda"])
def test_copying_and_computing_meet_on_the_device_of_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.device] = []
    computing, kept = fake_streams(monkeypatch)
    monkeypatch.setattr(device_module, "_copied", lambda batch, device: moved.append(device) or dict(batch))
    device = torch.device(name)
    batches = [{"clip": torch.tensor([number])} for number in range(3)]
    assert [batch["clip"].item() for batch in device_batches(batches, device)] == [0, 1, 2]
    own = torch.device("cuda", device.index or 0)
    assert set(computing) == {own} and moved == [own] * 3
    assert kept == [computing[own]] * 3 and computing[own].events == [own] * 3


@pytest.mark.parametrize("kind", ["clips", "views"])
def test_what_goes_to_a_gpu_is_pinned_first_for_training_and_for_views(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[int] = []
    sent: list[tuple[int, bool]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.data_ptr())
        return tensor

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        sent.append((tensor.data_ptr(), non_blocking))
        return tensor

    fake_streams(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    picture = torch.zeros((2, 4, 4, 3), dtype=torch.uint8)
    batches: dict[str, dict[str, Any]] = {
        "clips": {"clip": picture, "label": torch.tensor([1]), "status": ["ok"]},
        "views": {"frames": [picture, picture + 1], "positions": [torch.tensor([[0, 1]])], "label": torch.tensor([1])},
    }
    (arrived,) = device_batches([batches[kind]], torch.device("cuda"))
    assert arrived.keys() == batches[kind].keys()
    assert len(pinned) == {"clips": 2, "views": 3}[kind]
    assert sent == [(address, True) for address in pinned]


def test_on_a_cpu_nothing_is_pinned_or_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", None)
    clip = torch.zeros((2, 3), dtype=torch.uint8)
    (batch,) = device_batches([{"clip": clip, "frames": [clip]}], torch.device("cpu"))
    assert batch["clip"] is clip and batch["frames"] == [clip]
