"""The CNN before the patch embedding of a ViT of timm, such as that of vit_small_r26_s32_224, as a stem's trunk."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from hybridvideo.errors import UserError


class BackboneTrunk(nn.Module):
    """The CNN before the patch embedding of a ViT of timm, whole."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out = self.backbone(x_NCHW)
        return cast(Tensor, out[-1] if isinstance(out, list | tuple) else out)


def backbone_of(model: Any, name: str) -> nn.Module:
    """Return the CNN in a model's patch embedding. Raises UserError if there is none."""
    backbone = getattr(getattr(model, "patch_embed", None), "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise UserError(f"timm's {name} has no CNN before its patch embedding; one that has is vit_small_r26_s32_224")
    return backbone
