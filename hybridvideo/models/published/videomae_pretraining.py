"""VideoMAE's pretraining: an encoder sees the few unmasked tubelets, a narrow decoder reconstructs the others.

Tong et al. 2022, *VideoMAE*. Fine-tuning keeps the encoder (`videomae.VideoMAE`), less its last norm.

    clip -> tubelets -> the visible ones -> blocks -> norm -> linear -> + mask tokens -> blocks -> norm -> pixels

    B batch   T H W grid   N = T * H * W tokens   V visible, M masked ones   C channels   P = t * h * w * 3 pixels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybridvideo.config.data import Normalisation
from hybridvideo.errors import UserError
from hybridvideo.models.checks import check_clip, check_lengths, check_settings, check_size
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.patches import Patch, PatchEmbed
from hybridvideo.models.published.videomae import EPS, SinusoidPosition, check_width, grid_of, token_blocks
from hybridvideo.models.variants import IMAGENET
from hybridvideo.parsing import changed, plain


@dataclass(frozen=True)
class VideoMAEPretrainingConfig:
    """Encoder and decoder; clips may have any frames and size that are multiples of the patch."""

    frames: int = 16
    height: int = 224
    width: int = 224
    patch: tuple[int, int, int] = (2, 16, 16)
    """Frames, rows and columns of a tubelet."""
    dim: int = 768
    depth: int = 12
    heads: int = 12
    decoder_dim: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    """Of the encoder's last block; it rises from 0 in the first."""

    def __post_init__(self) -> None:
        grid_of((self.frames, self.height, self.width), self.patch)
        check_width(self.dim, self.heads, self.depth)
        check_width(self.decoder_dim, self.decoder_heads, self.decoder_depth)


class Encoder(nn.Module):
    """The classifier's tubelets and blocks, and a norm; parameter names are the classifier's."""

    def __init__(self, config: VideoMAEPretrainingConfig, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.patches = PatchEmbed(config.dim, config.patch)
        self.position = SinusoidPosition(config.dim, grid)
        self.blocks = token_blocks(config.dim, config.heads, config.depth, config.mlp_ratio, config.drop_path)
        self.norm = nn.LayerNorm(config.dim, eps=EPS)


class Decoder(nn.Module):
    """Blocks on all tokens, a norm, and one linear layer from a token to its pixels."""

    def __init__(self, config: VideoMAEPretrainingConfig, grid: tuple[int, int, int]) -> None:
        super().__init__()
        dim, (t, h, w) = config.decoder_dim, config.patch
        self.position = SinusoidPosition(dim, grid)
        self.blocks = token_blocks(dim, config.decoder_heads, config.decoder_depth, config.mlp_ratio)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.pixels = Linear(dim, 3 * t * h * w)


class VideoMAEPretraining(nn.Module):
    """The network of a `VideoMAEPretrainingConfig`: `model(x_BCTHW, mask_BN) -> (B, M, P)`.

    Train it towards `reconstruction_targets` of the same clip and mask, by mean squared error.
    """

    classifier_name = "decoder.pixels"  # the last linear layer, for `load_weights`
    inflation: Literal["mean", "centre"] = "mean"  # of 2-D kernels, for `load_weights`

    def __init__(self, config: VideoMAEPretrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.input_shape = (3, config.frames, config.height, config.width)
        self.normalisation: Normalisation = IMAGENET
        self.grad_checkpointing = False
        grid = grid_of((config.frames, config.height, config.width), config.patch)
        self.encoder = Encoder(config, grid)
        self.narrow = Linear(config.dim, config.decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.decoder_dim))
        self.decoder = Decoder(config, grid)
        self._init_weights()

    def forward(self, x_BCTHW: Tensor, mask_BN: Tensor) -> Tensor:
        """Reconstructions of the masked tubelets.

        Args:
            x_BCTHW: normalised clips.
            mask_BN: True for tubelets hidden from the encoder, in the order of the flattened grid (T, H, W); the same
                number in every clip of the batch.

        Returns:
            (B, M, P): the masked tubelets in the same order, their values in the order (t, h, w, colour).

        Raises:
            UserError: anything but float clips that divide into tubelets; a mask of another shape or type, or with
                another number of masked tubelets from clip to clip.
        """
        check_clip(x_BCTHW, self.input_shape)
        grid_BTHWC = self.encoder.position(self.encoder.patches(x_BCTHW))
        visible_BV, masked_BM = split_by_mask(mask_BN, grid_BTHWC)
        encoded_BVC = self.encode(pick(grid_BTHWC.flatten(1, 3), visible_BV))
        position_BNC = self.decoder.position.table(grid_BTHWC.shape[1:4]).flatten(0, 2).expand(len(mask_BN), -1, -1)
        seen_BVC = self.narrow(encoded_BVC) + pick(position_BNC, visible_BV)
        unseen_BMC = self.mask_token + pick(position_BNC, masked_BM)
        return self.decode(torch.cat([seen_BVC, unseen_BMC.to(seen_BVC.dtype)], 1), masked_BM.shape[1])

    def encode(self, x_BVC: Tensor) -> Tensor:
        """Visible tokens through the encoder's blocks."""
        out: Tensor = self.encoder.norm(self.run_blocks(self.encoder.blocks, x_BVC))
        return out

    def decode(self, x_BNC: Tensor, masked: int) -> Tensor:
        """All tokens through the decoder; the pixels of the last `masked` ones."""
        x_BNC = self.run_blocks(self.decoder.blocks, x_BNC)
        out: Tensor = self.decoder.pixels(self.decoder.norm(x_BNC[:, x_BNC.shape[1] - masked :]))
        return out

    def run_blocks(self, blocks: nn.ModuleList, x_BNC: Tensor) -> Tensor:
        """Run blocks one after another, with activations kept or recomputed."""
        again = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        for block in blocks:
            x_BNC = checkpoint(block, x_BNC, use_reentrant=False) if again else block(x_BNC)
        return x_BNC

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """In training, recompute activations inside blocks during backward instead of keeping them."""
        self.grad_checkpointing = enable

    def settings(self) -> dict[str, Any]:
        """Plain data from which `create_pretraining(name, **settings)` builds this architecture."""
        settings: dict[str, Any] = plain(self.config)
        return settings

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay, beyond all vectors and scalars."""
        return {"mask_token"}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        with torch.inference_mode(False):  # the model may be trained later, whatever mode the caller is in
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)


def split_by_mask(mask_BN: Tensor, grid_BTHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices (B, V) of visible and (B, M) of masked tokens. Raises UserError for a wrong mask."""
    B, N = grid_BTHWC.shape[0], grid_BTHWC.shape[1:4].numel()
    if mask_BN.shape != (B, N) or mask_BN.dtype != torch.bool:
        got = f"{str(mask_BN.dtype).removeprefix('torch.')} {tuple(mask_BN.shape)}"
        raise UserError(f"the mask is {got}; give bool {(B, N)}: one value for each tubelet of each clip")
    counts = mask_BN.sum(1).tolist()
    if len(set(counts)) > 1 or not 0 < counts[0] < N:
        raise UserError(
            f"the mask hides {counts} of {N} tubelets; give each clip the same number, neither none nor all"
        )
    order_BN = mask_BN.byte().argsort(dim=1, stable=True)
    return order_BN[:, : N - counts[0]], order_BN[:, N - counts[0] :]


def pick(x_BNC: Tensor, index_BK: Tensor) -> Tensor:
    """Return the tokens at these indices, (B, K, C)."""
    return x_BNC.gather(1, index_BK[..., None].expand(-1, -1, x_BNC.shape[2]))


def reconstruction_targets(
    x_BCTHW: Tensor, mask_BN: Tensor, patch: Patch, normalisation: Normalisation, per_patch: bool = True
) -> Tensor:
    """Return the masked pixels, (B, M, P).

    Args:
        x_BCTHW: clips as the model receives them.
        mask_BN: the mask as the model receives it.
        patch: frames, rows and columns of a tubelet.
        normalisation: of the clips; it is undone, so that pixels are in [0, 1].
        per_patch: then normalise each colour of each tubelet to mean 0 and standard deviation 1, as published.
    """
    t, h, w = patch
    pixels_BTHWP = rearrange(x_BCTHW, "B c (T t) (H h) (W w) -> B T H W (t h w c)", t=t, h=h, w=w)
    _, masked_BM = split_by_mask(mask_BN, pixels_BTHWP)
    targets = pick(pixels_BTHWP.flatten(1, 3), masked_BM).unflatten(2, (t * h * w, 3))
    targets = targets * targets.new_tensor(normalisation.std) + targets.new_tensor(normalisation.mean)
    if per_patch:
        targets = (targets - targets.mean(2, keepdim=True)) / (targets.std(2, keepdim=True) + 1e-6)
    return targets.flatten(2)


# --- named variants: the decoders published for each encoder ---


@dataclass(frozen=True)
class PretrainingVariant:
    """The builder of a named variant: `variant(**changes)`, changes of the config's fields."""

    config: VideoMAEPretrainingConfig

    def __call__(self, **changes: Any) -> VideoMAEPretraining:
        check_lengths(changes)
        config = changed(self.config, changes) if changes else self.config
        check_settings(config)
        check_size(lambda: VideoMAEPretraining(config))
        return VideoMAEPretraining(config)


SMALL = VideoMAEPretrainingConfig(dim=384, heads=6, decoder_dim=192, decoder_heads=3)
BASE = VideoMAEPretrainingConfig()
LARGE = VideoMAEPretrainingConfig(dim=1024, depth=24, heads=16, decoder_dim=512, decoder_depth=12, decoder_heads=8)
HUGE = VideoMAEPretrainingConfig(dim=1280, depth=32, heads=16, decoder_dim=640, decoder_depth=12, decoder_heads=8)

PRETRAINING: dict[str, PretrainingVariant] = {
    "videomae_small": PretrainingVariant(SMALL),
    "videomae_base": PretrainingVariant(BASE),
    "videomae_large": PretrainingVariant(LARGE),
    "videomae_huge": PretrainingVariant(HUGE),
}
