"""The device that is asked for is the device that is used, or the error says what there is."""

from __future__ import annotations

import os

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.tasks.support.job_device import pick_device, process_state


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """torch says that there are two; gives the devices that were made the current one."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_a_name_that_is_none_is_refused() -> None:
    for name in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "cuda:0:1", "", "0"):
        with pytest.raises((UserError, EnvironmentFault)) as error:
            pick_device(name)
        assert "device" in str(error.value) and "\n" not in str(error.value)
    assert pick_device("cpu") == torch.device("cpu")


def test_an_index_that_does_not_exist_is_refused(two_gpus: list[torch.device]) -> None:
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="no device cuda:2; this machine has cuda:0 to cuda:1"):
        pick_device("cuda:2")


def test_the_index_is_the_one_that_accelerate_uses(two_gpus: list[torch.device]) -> None:
    AcceleratorState._reset_state(True)
    try:
        assert process_state("cuda:1").device == torch.device("cuda", 1)
        assert Accelerator().device == torch.device("cuda", 1) and two_gpus == [torch.device("cuda", 1)]
        assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    finally:
        AcceleratorState._reset_state(True)


def test_one_device_for_several_processes_is_refused(
    two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="device cuda:1 is one device, and the launcher started 2 processes"):
        process_state("cuda:1")
    assert not PartialState._shared_state or PartialState().device.type == "cpu"
