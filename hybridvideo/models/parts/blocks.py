"""The block that most kinds share: branches with mixers of positions, an MLP; and a path in time after any block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.models.parts.attention_kinds import temporal
from hybridvideo.models.parts.convolution import DepthwiseConv
from hybridvideo.models.parts.mlp import Mlp
from hybridvideo.models.parts.norms import NORMS, layer_scale
from hybridvideo.models.parts.place import Place
from hybridvideo.models.parts.positions import ConvPosition


class Branch(nn.Module):
    """A residual branch: x + drop_path(scale * dropout(f(norm(x)))), or norm(x + ...) as in the Transformer of 2017."""

    def __init__(self, place: Place, inner: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        stage = place.stage
        self.norm = NORMS[stage.norm](place.dim, eps=stage.norm_eps)
        self.inner = inner
        self.dropout = nn.Dropout(dropout)
        self.scale = layer_scale(place.dim, stage.layer_scale)
        self.drop_path = DropPath(place.drop_path)
        self.norm_first = stage.norm_place == "pre"

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            return x + self.drop_path(self.scale(self.dropout(self.inner(self.norm(x)))))
        out: Tensor = self.norm(x + self.drop_path(self.scale(self.dropout(self.inner(x)))))
        return out


class Block(nn.Module):
    """[Convolutional position,] a branch for each mixer, a branch with the MLP."""

    def __init__(self, place: Place, mixers: Sequence[nn.Module]) -> None:
        super().__init__()
        stage, dim = place.stage, place.dim
        kernel = (3, 3, 3) if place.time else (1, 3, 3)
        self.position = ConvPosition(dim, kernel) if stage.position == "conv" else nn.Identity()
        self.branches = nn.ModuleList(Branch(place, mixer, stage.dropout) for mixer in mixers)
        hidden = int(dim * stage.mlp_ratio)
        self.mlp = Branch(place, Mlp(dim, hidden, stage.dropout, stage.activation)) if hidden else nn.Identity()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = self.position(x_BTHWC)
        for branch in self.branches:
            x = branch(x)
        out: Tensor = self.mlp(x)
        return out


class PathInTime(nn.Module):
    """x + mixer(norm(x)), a mixer through time: what a block of an image network lacks."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(place.dim)
        self.mixer = PATHS_IN_TIME[place.stage.temporal](place)
        self.drop_path = DropPath(place.drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out: Tensor = x_BTHWC + self.drop_path(self.mixer(self.norm(x_BTHWC)))
        return out


PATHS_IN_TIME: dict[str, Callable[[Place], nn.Module]] = {
    "attention": temporal,
    "conv": lambda place: DepthwiseConv(place.dim, (3, 1, 1)),
}


class WithTime(nn.Module):
    """A block, then a path in time."""

    def __init__(self, block: nn.Module, temporal: nn.Module) -> None:
        super().__init__()
        self.block, self.temporal = block, temporal

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out: Tensor = self.temporal(self.block(x_BTHWC))
        return out
