"""What processes tell each other, in real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridvideo.engine.exchange import gather, gather_numbers, permuted
from hybridvideo.engine.training.statistics import counted_statistics
from tests.engine.training.processes import in_processes

CLIPS = [2, 0, 3]  # that count, of three processes with 3, 1 and 3 clips
OWN = [[0, 2], [], [0, 1, 2]]
SHARES = [3, 1, 3]
ORDER = [3, 0, 4, 1, 2]


def share_of(whole: Tensor, rank: int) -> Tensor:
    return whole.split(SHARES)[rank].clone()


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))
    return nn.Sequential(*layers).double()


def everything(rank: int, whole: Tensor) -> dict[str, Any]:
    """Each kind of exchange once."""
    accelerator = Accelerator(cpu=True)
    model = net()
    ok = [place in OWN[rank] for place in range(SHARES[rank])]
    buffers = []
    for _ in range(2):
        with counted_statistics(model, ok, CLIPS, rank):
            (model(share_of(whole, rank))[OWN[rank]]).pow(3).sum().backward()
        buffers.append([buffer.clone() for buffer in model.buffers()])
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    for gradient in gradients:
        torch.distributed.all_reduce(gradient)
    return {
        "gather": gather(accelerator, {"rank": rank}),
        "numbers": gather_numbers(accelerator, [rank, 10 * rank]),
        "permuted": permuted(share_of(whole, rank), OWN[rank], ORDER, CLIPS, rank),
        "gradients": gradients,
        "buffers": buffers,
    }


def test_processes_do_together_what_one_does_alone(tmp_path: Path) -> None:
    whole = torch.randn(sum(SHARES), 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    first, second, third = in_processes(everything, 3, tmp_path, whole)
    for found in (first, second, third):
        assert found["gather"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert found["numbers"] == [[0, 0], [1, 10], [2, 20]]

    places = torch.tensor([0, 2, 4, 5, 6])  # of the clips that count, in the whole batch
    expected = whole.clone()
    expected[places] = whole[places][ORDER]
    assert torch.equal(torch.cat([found["permuted"] for found in (first, second, third)]), expected)

    model = net()
    for i in range(2):
        model(whole[places]).pow(3).sum().backward()
        for found in (first, second, third):
            for buffer, own, others in zip(model.buffers(), found["buffers"][i], first["buffers"][i], strict=True):
                assert torch.equal(own, others) and torch.allclose(own, buffer, rtol=1e-9)
    for found in (first, second, third):
        for parameter, gradient in zip(model.parameters(), found["gradients"], strict=True):
            assert parameter.grad is not None and torch.allclose(gradient, parameter.grad, rtol=1e-6, atol=1e-8)


def test_one_process_has_its_own_value() -> None:
    accelerator = Accelerator(cpu=True)
    assert gather(accelerator, {"a": 1}) == [{"a": 1}] and gather_numbers(accelerator, [3, 4]) == [[3, 4]]
    rows = torch.arange(8.0).view(4, 2)
    assert torch.equal(permuted(rows, [0, 1, 3], [2, 0, 1], [3], 0), rows[[3, 0, 2, 1]])
