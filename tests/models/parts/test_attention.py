"""Attention on a grid against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from hybridvideo.config.model import StageConfig
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import count_gmacs
from hybridvideo.models.parts import attend as ways
from hybridvideo.models.parts.attend import BiasedAttention
from hybridvideo.models.parts.attention import JointAttention, SpatialAttention, TemporalAttention, WindowAttention3d
from hybridvideo.models.parts.kinds import make_block
from hybridvideo.models.parts.place import Place
from hybridvideo.models.parts.relative import RelativeTable, fitted_table
from hybridvideo.models.parts.windows import masked_parts, true_parts, window_layout


def by_definition(layer: SpatialAttention, tokens_NC: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v among all tokens, head by head."""
    q, k, v = layer.qkv(tokens_NC).chunk(3, -1)
    outputs = []
    for qh, kh, vh in zip(q.chunk(layer.heads, -1), k.chunk(layer.heads, -1), v.chunk(layer.heads, -1), strict=True):
        outputs.append(F.softmax(qh @ kh.T * qh.shape[-1] ** -0.5, -1) @ vh)
    return layer.proj(torch.cat(outputs, -1))


def test_each_kind_attends_within_its_group() -> None:
    x = torch.randn(2, 3, 4, 5, 16)
    spatial, temporal, joint = SpatialAttention(16, 4), TemporalAttention(16, 4), JointAttention(16, 4)
    frame = by_definition(spatial, x[1, 2].flatten(0, 1))
    assert torch.allclose(spatial(x)[1, 2].flatten(0, 1), frame, atol=1e-5)
    assert torch.allclose(temporal(x)[1, :, 2, 3], by_definition(temporal, x[1, :, 2, 3]), atol=1e-5)
    assert torch.allclose(joint(x)[1].flatten(0, 2), by_definition(joint, x[1].flatten(0, 2)), atol=1e-5)


@pytest.mark.parametrize("grid", [(8, 14, 14), (5, 9, 11), (2, 7, 9), (8, 7, 8), (8, 3, 5)])
@pytest.mark.parametrize("shifted", [False, True])
def test_both_ways_through_windows_equal_torchvisions(grid: tuple[int, int, int], shifted: bool) -> None:
    window = (4, 7, 7)
    shift = [side // 2 if shifted else 0 for side in window]
    peer = ShiftedWindowAttention3d(24, list(window), shift, 3)
    ours = WindowAttention3d(24, 3, window, shifted, clipped_bias="first")
    torch.nn.init.normal_(peer.relative_position_bias_table)
    state = peer.state_dict()
    ours.load_state_dict(
        {
            **{name: value for name, value in state.items() if "relative" not in name},
            "bias_table": state["relative_position_bias_table"].view(7, 13, 13, 3),
        }
    )
    x = torch.randn(2, *grid, 24)
    layout = window_layout(grid, window, shifted)
    with torch.no_grad():
        ways = [ours.through(x, layout, cut(layout)) for cut in (true_parts, masked_parts)]
        for out in (ours(x), *ways):
            assert torch.allclose(out, peer(x), atol=1e-5)


@pytest.mark.parametrize("grid", [(8, 14, 10), (3, 4, 9)])
def test_both_ways_have_the_same_gradients(grid: tuple[int, int, int]) -> None:
    layer = WindowAttention3d(12, 3, (4, 7, 7), shifted=True)
    torch.nn.init.normal_(layer.bias_table)
    layout, x = window_layout(grid, layer.window, True), torch.randn(2, *grid, 12, requires_grad=True)
    weights = [x, *layer.parameters()]
    by_parts = torch.autograd.grad(layer.through(x, layout, true_parts(layout)).sin().sum(), weights)
    masked = torch.autograd.grad(layer.through(x, layout, masked_parts(layout)).sin().sum(), weights)
    for one, other in zip(by_parts, masked, strict=True):
        assert one.abs().max() > 0 and torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("scores", [100, 50, 25])  # two windows at a time, one, one head of one
def test_attention_with_a_learned_bias_has_the_gradients_of_its_definition(
    scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BiasedAttention, "SCORES", scores)
    qkv = torch.randn(3, 5, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(BiasedAttention.apply, (qkv, bias))


def test_a_clipped_window_takes_the_bias_of_the_true_offsets_unless_told_otherwise() -> None:
    whole = WindowAttention3d(8, 2, (2, 5, 5), shifted=False)
    torch.nn.init.normal_(whole.bias_table)
    small = WindowAttention3d(8, 2, (2, 3, 3), shifted=False)
    small.load_state_dict({**whole.state_dict(), "bias_table": whole.bias_table[:, 2:-2, 2:-2]})
    x = torch.randn(1, 2, 3, 3, 8)
    assert torch.allclose(whole(x), small(x), atol=1e-6)
    whole.clipped_bias = "first"
    assert not torch.allclose(whole(x), small(x), atol=1e-3)


def test_the_cached_bias_follows_a_change_of_the_table() -> None:
    layer = WindowAttention3d(8, 2, (2, 2, 2), shifted=True).eval()
    x = torch.randn(1, 4, 4, 4, 8)
    with torch.inference_mode():
        before = layer(x)
        assert layer(x) is not before and torch.equal(layer(x), before)
    first = layer.cached.entry
    with torch.no_grad():
        layer(x)
        assert layer.cached.entry is first
        layer.bias_table.normal_()
        assert not torch.allclose(layer(x), before)


def test_the_bias_is_trained() -> None:
    layer = WindowAttention3d(8, 2, (2, 3, 3), shifted=True)
    layer(torch.randn(1, 4, 6, 6, 8)).square().sum().backward()
    assert layer.bias_table.grad is not None and layer.bias_table.grad.abs().sum() > 0


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(UserError, match="10 channels do not divide into 4 heads"):
        SpatialAttention(10, 4)


def mask_bytes(frames: int, size: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Bytes of the largest and of all masks that Video Swin-T gives to the kernel on another device than a CPU."""
    masks: dict[int, Tensor] = {}

    def kernel(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor) -> Tensor:
        masks[id(attn_mask)] = attn_mask  # kept, as autograd keeps it
        assert attn_mask.shape == (1, q.shape[1], q.shape[2], k.shape[2])
        return torch.empty_like(q)

    with torch.device("meta"):
        model = create_model("video_swin_tiny", num_frames=frames, image_size=size)
    monkeypatch.setattr(ways.F, "scaled_dot_product_attention", kernel)
    model.eval()(torch.empty(batch, 3, frames, size, size, device="meta"))
    sizes = [mask.numel() * mask.element_size() for mask in masks.values()]
    return max(sizes), sum(sizes)


def test_masks_of_windows_are_bounded_whatever_the_clip_and_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, total = mask_bytes(32, 224, 1, monkeypatch)
    assert largest == 24 * 392**2 * 4  # one mask of the heads of the last stage
    assert total < 0.3e9  # of every block together; a mask for each window took 1.1e9
    assert mask_bytes(32, 224, 8, monkeypatch) == (largest, total)
    assert mask_bytes(64, 448, 1, monkeypatch)[1] <= 1.5 * total  # the last stage is shifted along rows and columns too


@torch.no_grad()
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("window", [(3, 4, 5), (8, 7, 7)])
def test_a_window_as_large_as_the_clip_is_joint_attention(window: tuple[int, int, int], relative: bool) -> None:
    """Without biases, or with one table for both: that of a larger window has the same offsets in its middle."""
    grid = (3, 4, 5)
    windows = WindowAttention3d(16, 4, window, shifted=True)
    joint = JointAttention(16, 4, RelativeTable(4, grid) if relative else None)
    if joint.relative is not None:
        torch.nn.init.normal_(windows.bias_table)
        joint.relative.load_state_dict({"bias_table": fitted_table(windows.bias_table, grid)})
    for name in ("qkv", "proj"):
        joint.get_submodule(name).load_state_dict(windows.get_submodule(name).state_dict())
    x = torch.randn(2, *grid, 16)
    assert torch.allclose(windows(x), joint(x), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("relative", ["none", "table", "mlp"])
def test_divided_attention_of_one_frame_is_spatial_attention(relative: str) -> None:
    """A frame that can only look at itself in time mixes nothing: what is added is a map of each position alone."""
    stage = StageConfig("divided", 1, 4, relative=relative)  # type: ignore[arg-type]
    place = Place(stage, 0, 16, 16, (4, 3, 5))
    divided, spatial = make_block(place), make_block(place.inside("spatial"))
    for parameter in divided.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    of_time = divided.branches[0]  # type: ignore[index]
    state = {name: value for name, value in divided.state_dict().items() if not name.startswith("branches.0.")}
    spatial.load_state_dict({name.replace("branches.1.", "branches.0."): value for name, value in state.items()})
    x = torch.randn(2, 1, 3, 5, 16)
    alone = of_time.inner.proj(of_time.inner.qkv(of_time.norm(x)).chunk(3, -1)[2])
    assert torch.allclose(divided(x), spatial(x + alone), atol=1e-5)
    torch.nn.init.zeros_(of_time.inner.proj.weight)
    torch.nn.init.zeros_(of_time.inner.proj.bias)  # as a path in time starts from image weights
    assert torch.allclose(divided(x), spatial(x), atol=1e-5)


@torch.no_grad()
def test_auto_is_joint_for_few_positions_and_divided_for_many() -> None:
    small = create_model("hybrid", 3, frames=2, height=8, width=8, stages=[{"block": "auto"}], stem={"widths": [16]})
    large = create_model("hybrid", 3, frames=8, height=64, width=64, stages=[{"block": "auto"}], stem={"widths": [16]})
    assert (small.notes, large.notes) == (("stages[0]: auto is joint",), ("stages[0]: auto is divided",))
    for model, kind, other in ((small, "joint", "divided"), (large, "divided", "joint")):
        costs = {
            name: count_gmacs(create_model("hybrid", 3, **{**model.settings(), "stages": [{"block": name}]}))
            for name in (kind, other)
        }
        assert model.stages[0].kind == kind  # type: ignore[index, union-attr]
        assert count_gmacs(model) == costs[kind] < costs[other]
