"""A library's network with each BatchNorm folded into the convolution before it, for inference without gradients.

The blocks of timm and torchvision call convolution, norm and activation as they please, so no name says which norm
follows which convolution. autograd's graph does: a norm may be folded if its input is the output of a convolution
that nothing else reads. The graph is that of one frame on `meta`, which costs no arithmetic. Convolutions of BiT get
the weights that they would standardise in every pass, and under autocast all have them in its precision.

What runs is a copy of the network, kept until a parameter or a statistic changes; it takes the memory of its weights.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.nn.modules.batchnorm import _BatchNorm

from hybridvideo.models.parts.cached import Cached
from hybridvideo.models.parts.folding import folded
from hybridvideo.models.parts.linear import autocast_dtype
from hybridvideo.models.parts.shortcuts import shortcuts_allowed

# Themselves, no subclass: those may compute something else.
PLAIN = (nn.Conv2d, Conv2dSame)
STANDARDISED = (StdConv2d, StdConv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class FoldedNetwork(nn.Module):
    """Call a network of frames, folded where nothing would notice. Has no state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cached = Cached[nn.Module | None]()

    def forward(self, network: nn.Module, x_NCHW: Tensor) -> Any:
        if not foldable(network):
            return network(x_NCHW)
        sources = (*network.parameters(), *network.buffers())
        kind = autocast_dtype(x_NCHW)
        short = self.cached.get(sources, lambda: folded_network(network, x_NCHW, kind), kind)
        return (network if short is None else short)(x_NCHW)


def foldable(network: nn.Module) -> bool:
    """Return whether norms may be folded: not if gradients are wanted or anything watches a layer."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or network.training or not shortcuts_allowed():
        return False
    if registry._has_any_global_hook():
        return False
    tensors = (*network.parameters(), *network.buffers())
    return all(map(is_ordinary, tensors)) and not any(is_watched(layer) for layer in network.modules())


def is_ordinary(tensor: Tensor) -> bool:
    """Return whether a tensor has values to fold, and tells when they change: those on `meta` have none."""
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_inference() and not tensor.is_meta


def is_watched(layer: nn.Module) -> bool:
    """Return whether a layer has hooks, a replaced `forward`, or a norm's statistics of the batch."""
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return any(hooks) or "forward" in layer.__dict__ or (isinstance(layer, _BatchNorm) and layer.training)


def folded_network(network: nn.Module, x_NCHW: Tensor, kind: torch.dtype | None) -> nn.Module | None:
    """Return a copy with weights standardised, norms folded and kernels in autocast's precision; None if all is so."""
    pairs = foldable_pairs(network, x_NCHW)
    standardised = [name for name, layer in network.named_modules() if type(layer) in STANDARDISED]
    if not pairs and not standardised and kind is None:
        return None
    short = copy.deepcopy(network).requires_grad_(False)
    for name in standardised:
        short.set_submodule(name, with_standardised_weights(short.get_submodule(name)))
    for convolution, norm in pairs:
        conv, batch_norm = short.get_submodule(convolution), short.get_submodule(norm)
        assert isinstance(conv, nn.Conv2d) and isinstance(batch_norm, _BatchNorm)
        weight, bias = folded(conv, batch_norm, conv.weight.dtype)
        conv.weight, conv.bias = (nn.Parameter(part, requires_grad=False) for part in (weight, bias))
        short.set_submodule(norm, rest_of(batch_norm))
    for layer in short.modules():
        if type(layer) in PLAIN:
            layer.to(memory_format=torch.channels_last).to(dtype=kind)
    return short


def with_standardised_weights(layer: nn.Module) -> nn.Conv2d:
    """Return the convolution that one of BiT's is: timm standardises its weights in every pass."""
    assert isinstance(layer, StdConv2d | StdConv2dSame)
    kernel, width = layer.kernel_size, layer.out_channels
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups, layer.bias is not None)
    make = Conv2dSame if getattr(layer, "same_pad", False) else nn.Conv2d
    plain: nn.Conv2d = make(layer.in_channels, width, kernel, *settings)
    rows = layer.weight.reshape(1, width, -1)
    weight = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=layer.eps).reshape_as(layer.weight)
    plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), layer.bias
    return plain


def rest_of(norm: _BatchNorm) -> nn.Module:
    """What a layer does after the norm."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity()


def foldable_pairs(network: nn.Module, x_NCHW: Tensor) -> list[tuple[str, str]]:
    """Return the names of each convolution and of the norm that alone reads its output."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x_NCHW.device.type, enabled=False):
        on_meta = copy.deepcopy(network).to("meta").requires_grad_(True)
        kind = next(on_meta.parameters()).dtype
        out = on_meta(torch.empty(1, *x_NCHW.shape[1:], dtype=kind, device="meta"))
    roots = [map_NCHW.grad_fn for map_NCHW in (out.values() if isinstance(out, dict) else [out])]
    nodes = list(graph_of(roots))
    readers = Counter([*roots, *(before for node in nodes for before in inputs_of(node))])
    named = {id(layer.weight): name for name, layer in on_meta.named_modules() if type(layer) in PLAIN + NORMS}
    pairs = []
    for node in nodes:
        if node.name().startswith("NativeBatchNorm"):
            before, norm = inputs_of(node)[0], named.get(parameter_of(node))
            if before is not None and before.name().startswith("Convolution") and readers[before] == 1:
                convolution = named.get(parameter_of(before))
                if norm and convolution and readers[inputs_of(before)[1]] == 1:
                    pairs.append((convolution, norm))
    return pairs


def graph_of(roots: list[Any]) -> Iterator[Any]:
    """Yield every node of autograd's graph once."""
    seen, waiting = set(), list(roots)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += inputs_of(node)
            yield node


def inputs_of(node: Any) -> list[Any]:
    """Return the nodes whose results a node reads, None where no gradient is wanted."""
    return [before for before, _ in node.next_functions]


def parameter_of(node: Any) -> int:
    """Return the identity of the parameter that a layer has as its weight; of None if the weight is computed."""
    return id(getattr(inputs_of(node)[1], "variable", None))
