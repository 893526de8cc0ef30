"""Checkpoints of Video Swin: fabricated with the documented keys and shapes, renamed both ways, and torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.video import swin3d_s, swin3d_t

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.weights.layouts.layout import Layout
from hybridvideo.weights.layouts.video_swin import MMACTION_0, MMACTION_1, TORCHVISION_SWIN3D, window_of
from hybridvideo.weights.load_weights import load_weights

DIM, DEPTHS, HEADS, WINDOW = 24, (2, 2, 3, 1), (3, 6, 12, 24), (8, 7, 7)


def documented(norm: str = "norm", window: tuple[int, int, int] = WINDOW, index: bool = True) -> dict[str, Tensor]:
    """All tensors of an mmaction checkpoint, random."""
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.patch_embed.proj.weight": (DIM, 3, 2, 4, 4), "backbone.patch_embed.proj.bias": (DIM,),
        "cls_head.fc_cls.weight": (400, 8 * DIM), "cls_head.fc_cls.bias": (400,),
    }  # fmt: skip
    t, h, w = window
    norms = {"backbone.patch_embed.norm": DIM, f"backbone.{norm}": 8 * DIM}
    for s, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        C = DIM * 2**s
        for b in range(depth):
            block = f"backbone.layers.{s}.blocks.{b}"
            norms |= {f"{block}.norm1": C, f"{block}.norm2": C}
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * t - 1) * (2 * h - 1) * (2 * w - 1), heads)
            for name, (rows, columns) in {"attn.qkv": (3 * C, C), "attn.proj": (C, C), "mlp.fc1": (4 * C, C),
                                          "mlp.fc2": (C, 4 * C)}.items():  # fmt: skip
                shapes |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (rows,)}
        if s < 3:
            shapes[f"backbone.layers.{s}.downsample.reduction.weight"] = (2 * C, 4 * C)
            norms[f"backbone.layers.{s}.downsample.norm"] = 4 * C
    shapes |= {f"{name}.{p}": (size,) for name, size in norms.items() for p in ("weight", "bias")}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    return {**state, **indices(state, window)} if index else state


def indices(state: dict[str, Tensor], window: tuple[int, int, int]) -> dict[str, Tensor]:
    """The index buffer beside each table, by its definition."""
    axes = torch.stack(torch.meshgrid(*(torch.arange(side) for side in window), indexing="ij")).flatten(1)
    offsets = (axes[:, :, None] - axes[:, None]).permute(1, 2, 0) + torch.tensor(window) - 1
    _, h, w = window
    index = offsets @ torch.tensor([(2 * h - 1) * (2 * w - 1), 2 * w - 1, 1])
    return {key.replace("bias_table", "index"): index for key in state if key.endswith("bias_table")}


@pytest.mark.parametrize(("layout", "norm"), [(MMACTION_0, "norm"), (MMACTION_1, "norm3")])
def test_all_documented_tensors_of_mmaction_load_and_come_back(layout: Layout, norm: str) -> None:
    state = documented(norm)
    name, changes = layout.architecture(state)
    model = create_model(name, 400, **changes)
    report = load_weights(model, {"meta": {"epoch": 30}, "state_dict": state})
    assert report.layout == layout.name
    assert len(report.matched) == len(model.state_dict()) and not report.resized
    back = layout.to_theirs(model.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("window", [(16, 7, 7), (8, 12, 12), (4, 5, 3), (3, 5, 4)])
def test_the_window_is_read_off_the_index_buffer(window: tuple[int, int, int]) -> None:
    state = documented(window=window)
    _, changes = MMACTION_0.architecture(state)
    assert changes["window"] == window
    assert MMACTION_0.to_ours(state)["stages.2.blocks.1.attention.bias_table"].shape == (
        2 * window[0] - 1, 2 * window[1] - 1, 2 * window[2] - 1, 12
    )  # fmt: skip


@pytest.mark.parametrize("window", [(8, 7, 7), (16, 7, 7), (8, 12, 12)])
def test_published_windows_are_known_without_the_buffer(window: tuple[int, int, int]) -> None:
    state = documented(window=window, index=False)
    assert window_of(state, "backbone.layers.0.blocks.0.attn.relative_position_bias_table") == window


def test_named_variants_are_recognised() -> None:
    for build, name in ((swin3d_t, "video_swin_tiny"), (swin3d_s, "video_swin_small")):
        with torch.device("meta"):
            shapes = build(weights=None).state_dict()
        state = {key: torch.zeros(value.shape) if "index" not in key else value for key, value in shapes.items()}
        state = {key: value for key, value in state.items() if "index" not in key}
        found, changes = TORCHVISION_SWIN3D.architecture(state)
        assert found == name and changes["window"] == (8, 7, 7)
        with torch.device("meta"):
            assert create_model(found, **changes).settings() == create_model(name).settings()


def test_torchvisions_tensors_come_back() -> None:
    state = swin3d_t(weights=None).state_dict()
    back = TORCHVISION_SWIN3D.to_theirs(TORCHVISION_SWIN3D.to_ours(state))
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


def test_another_window_resizes_the_tables_and_says_so() -> None:
    model = create_model("video_swin_tiny", 400, dim=DIM, depths=DEPTHS, window=(16, 7, 7))
    report = load_weights(model, documented())
    assert len(report.resized) == sum(DEPTHS) and all(name.endswith("bias_table") for name in report.resized)
    assert model.stages[0].blocks[0].attention.bias_table.shape == (31, 13, 13, 3)


def test_a_missing_tensor_is_named() -> None:
    state = documented()
    del state["backbone.layers.2.blocks.1.mlp.fc1.weight"]
    model = create_model("video_swin_tiny", 400, dim=DIM, depths=DEPTHS)
    with pytest.raises(UserError, match=r"stages\.2\.blocks\.1\.mlp\.fc1\.weight"):
        load_weights(model, state)


def test_torchvisions_figures_are_its_own() -> None:
    figure = TORCHVISION_SWIN3D.published("video_swin_base")
    assert figure is not None and figure.top1 == 79.427 and figure.weights == "torchvision:swin3d_b"
    assert TORCHVISION_SWIN3D.published("video_swin_large") is None
