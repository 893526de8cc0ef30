"""What is sent arrives to the last bit, in the same layout, and costs no descriptor."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from multiprocessing.connection import Connection
from typing import Any

import psutil
import pytest
import torch

from hybridvideo.data.processes import transport

VALUES = {
    "large": torch.arange(100_000).view(100, 1000),
    "transposed": torch.arange(100_000).view(100, 1000).t(),
    "channels last": torch.arange(60_000, dtype=torch.uint8).view(2, 100, 100, 3).permute(0, 3, 1, 2),
    "part of a tensor": torch.arange(200_000)[50_000:150_000],
    "small": torch.tensor([True, False]),
    "small part": torch.arange(10)[2:5],
    "one number": torch.tensor(3.5),
    "nothing": torch.empty((0, 3, 4), dtype=torch.uint8),
    "half": torch.ones(100_000, dtype=torch.bfloat16),
}


def travelled(value: Any) -> Any:
    """The value after it went through a pipe."""
    here, there = multiprocessing.Pipe()
    assert isinstance(here, Connection)
    sender = threading.Thread(target=transport.send, args=(there, value))
    sender.start()
    arrived = transport.receive(here)
    sender.join()
    here.close()
    there.close()
    return arrived


@pytest.mark.parametrize("name", VALUES)
def test_a_tensor_arrives_with_its_values_type_and_layout(name: str) -> None:
    sent, arrived = VALUES[name], travelled(VALUES[name])
    assert torch.equal(sent, arrived) and sent.dtype == arrived.dtype and sent.stride() == arrived.stride()


def test_other_values_arrive_next_to_tensors() -> None:
    arrived = travelled({"words": ["größe", ("b", 1.5)], "none": None, "tensors": [torch.ones(3), torch.zeros(70_000)]})
    assert arrived["words"] == ["größe", ("b", 1.5)] and arrived["none"] is None
    assert arrived["tensors"][0].sum() == 3 and len(arrived["tensors"][1]) == 70_000


def test_more_tensors_than_a_message_can_carry_descriptors_arrive() -> None:
    sent = [torch.full((70_000,), number, dtype=torch.uint8) for number in range(255)] * 2
    arrived = travelled(sent)
    assert all(torch.equal(one, other) for one, other in zip(sent, arrived, strict=True))


def test_descriptors_are_closed_when_the_tensors_go() -> None:
    travelled(VALUES["large"])
    gc.collect()
    before = psutil.Process().num_fds()
    arrived = [travelled(VALUES["large"]) for _ in range(5)]
    del arrived
    gc.collect()
    assert psutil.Process().num_fds() == before


def test_a_sender_that_is_gone_is_the_end_of_the_pipe() -> None:
    here, there = multiprocessing.Pipe()
    there.close()
    with pytest.raises(EOFError):
        transport.receive(here)  # type: ignore[arg-type]
    with pytest.raises(OSError):
        transport.send(here, 1)  # type: ignore[arg-type]
    here.close()


def test_a_tensor_that_is_made_for_sending_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_sender", True)
    tensor = transport.new_tensor((100, 1000), torch.int64).fill_(7)
    arrived = travelled(tensor)
    tensor[0, 0] = 8  # one memory, seen from both ends
    assert arrived[0, 0] == 8 and arrived[1, 0] == 7
