"""Exchange between processes: values, numbers, and clips that are mixed across processes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed import P2POp


def gather(accelerator: Accelerator, value: Any) -> list[Any]:
    """Return the value of each process, in order; anything that can be pickled."""
    return gather_object([value]) if accelerator.num_processes > 1 else [value]


def gather_numbers(accelerator: Accelerator, numbers: list[int]) -> list[list[int]]:
    """Return the integers of each process, in order; all must pass the same number.

    They go from host to host. Over the devices, the host would have to wait until these have done all queued work.
    """
    if accelerator.num_processes == 1:
        return [numbers]
    own = torch.tensor(numbers, dtype=torch.int64)
    parts = [torch.empty_like(own) for _ in range(accelerator.num_processes)]
    torch.distributed.all_gather(parts, own, group=host_group())
    return [part.tolist() for part in parts]


def host_group() -> Any:
    """Return the group of all processes over a backend for the host. The first call creates it, in all at once."""
    if "gloo" in str(torch.distributed.get_backend()):
        return None
    world = torch.distributed.group.WORLD
    if world not in HOST_GROUPS:
        HOST_GROUPS.clear()
        HOST_GROUPS[world] = torch.distributed.new_group(backend="gloo")
    return HOST_GROUPS[world]


HOST_GROUPS: dict[Any, Any] = {}  # of the default group, as long as there is that one


def stacked(value: Tensor, processes: int) -> Tensor:
    """Return the tensors of all processes, which have one shape, in their order."""
    if processes == 1:
        return value[None]
    parts = [torch.empty_like(value) for _ in range(processes)]
    torch.distributed.all_gather(parts, value)
    return torch.stack(parts)


def permuted(rows: Tensor, own: Sequence[int], order: Sequence[int], clips: Sequence[int], rank: int) -> Tensor:
    """Return the rows after a permutation of the clips that count, numbered across processes.

    Args:
        rows: (B, ...) of this process.
        own: which of them count; the others stay where they are.
        order: clip `i` of all gets the row of clip `order[i]`; the same in all processes.
        clips: how many count in each process.
        rank: this process.
    """
    starts = [0, *itertools.accumulate(clips)]
    owners = [process for process, number in enumerate(clips) for _ in range(number)]
    result, operations, arriving = rows.clone(), [], []
    for other in range(len(clips)):
        wanted = [i for i in range(starts[rank], starts[rank + 1]) if owners[order[i]] == other]
        asked = [order[i] for i in range(starts[other], starts[other + 1]) if owners[order[i]] == rank]
        places = [own[i - starts[rank]] for i in wanted]
        leaving = rows[[own[i - starts[rank]] for i in asked]].contiguous()
        if other == rank:
            result[places] = leaving
            continue
        arrived = rows.new_empty((len(wanted), *rows.shape[1:]))
        arriving.append((places, arrived))
        operations += [P2POp(torch.distributed.isend, leaving, other)] if asked else []
        operations += [P2POp(torch.distributed.irecv, arrived, other)] if wanted else []
    for work in torch.distributed.batch_isend_irecv(operations) if operations else []:
        work.wait()
    for places, arrived in arriving:
        result[places] = arrived
    return result
