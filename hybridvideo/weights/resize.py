"""Bring one tensor of a checkpoint into the shape a model has: resize tables, inflate 2-D kernels, nothing else.

    space_CHW    bicubic          time_CT   linear          bias_table (2t-1, 2h-1, 2w-1, heads)   both
    rows_CR, columns_CR, frames_CR linear                   bias_hHW   bicubic, distance 0 where it is
    kernel (O, I, h, w)           repeated over time and divided by the frames: (O, I, t, h, w);
                                  or, if the model asks for it, at the middle frame among zeros

A bias table of one frame is repeated over time. On a still clip an inflated kernel returns what it did on the frame
(Carreira & Zisserman 2017, *Quo Vadis, Action Recognition?*).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from hybridvideo.models.parts.levit import resized_distances
from hybridvideo.models.parts.positions import resized_space, resized_time

How = Literal["unchanged", "resized", "inflated"]
Inflation = Literal["mean", "centre"]


class Fitted(NamedTuple):
    """A tensor in the model's shape, and how it got there."""

    tensor: Tensor
    how: How


def fit_tensor(name: str, source: Tensor, own: Tensor, inflation: Inflation = "mean") -> Fitted | None:
    """Return `source` in the shape of `own`, the model's tensor of that name; None if it cannot be."""
    if source.shape == own.shape:
        return Fitted(source, "unchanged")
    table = name.rpartition(".")[2]
    if table.endswith("space_CHW") and source.ndim == own.ndim and source.shape[0] == own.shape[0]:
        return Fitted(resized_space(source.float(), *own.shape[1:]), "resized")
    if table.endswith("time_CT") and source.ndim == own.ndim and source.shape[0] == own.shape[0]:
        return Fitted(resized_time(source.float(), own.shape[1]), "resized")
    if table.endswith("_CR") and source.ndim == own.ndim and source.shape[0] == own.shape[0]:
        return Fitted(resized_time(source.float(), own.shape[1]), "resized")
    if table.endswith("bias_hHW") and source.ndim == own.ndim and source.shape[0] == own.shape[0]:
        return Fitted(resized_distances(source.float(), *own.shape[1:]), "resized")
    if table.endswith("bias_table") and source.ndim == own.ndim == 4 and source.shape[3] == own.shape[3]:
        return Fitted(resized_bias(source.float(), *own.shape[:3]), "resized")
    return inflated(source, own, inflation)


def resized_bias(table_THWh: Tensor, frames: int, height: int, width: int) -> Tensor:
    """Resize a table of relative positions (2t-1, 2h-1, 2w-1, heads): bicubic in space, linear in time."""
    t, h, w, heads = table_THWh.shape
    if (h, w) != (height, width):
        maps_ThHW = interpolate(table_THWh.permute(0, 3, 1, 2), (height, width), mode="bicubic", align_corners=False)
        table_THWh = maps_ThHW.permute(0, 2, 3, 1)
    if t != frames:
        rows_1CT = table_THWh.permute(1, 2, 3, 0).reshape(1, -1, t)
        rows_1CT = interpolate(rows_1CT, frames, mode="linear", align_corners=False)
        table_THWh = rows_1CT.reshape(height, width, heads, frames).permute(3, 0, 1, 2)
    return table_THWh


def inflated(source: Tensor, own: Tensor, inflation: Inflation = "mean") -> Fitted | None:
    """Extend a kernel of one frame over the frames of the model's; None if the shapes differ otherwise."""
    if own.ndim != 5 or source.ndim not in (4, 5):
        return None
    kernel = source if source.ndim == 5 else source[:, :, None]
    frames = own.shape[2]
    if kernel.shape[2] != 1 or kernel.shape[:2] != own.shape[:2] or kernel.shape[3:] != own.shape[3:]:
        return None
    if inflation == "mean":
        return Fitted(kernel.expand(own.shape) / frames, "inflated")
    centred = kernel.new_zeros(own.shape)
    centred[:, :, frames // 2] = kernel[:, :, 0]
    return Fitted(centred, "inflated")
