"""UniFormer: the published sizes and costs, any clip, and one block of each kind against plain tensor operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import count_gmacs, count_parameters
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.published.uniformer import AttentionBlock, ConvBlock, GridBatchNorm, Stem, UniFormerConfig

SMALL = {"dims": (8, 16, 32, 32), "depths": (1, 2, 2, 1), "head_dim": 16, "drop_path": 0.0}
CONFIG = UniFormerConfig(head_dim=8)


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter and statistic another than at the start."""
    torch.manual_seed(0)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand_like(value) + 0.5)
        elif value.is_floating_point():
            value.copy_(torch.randn_like(value) * 0.3)
    return module


@pytest.mark.parametrize(
    ("name", "frames", "gmacs", "millions"),
    [
        ("uniformer_small", 8, 17.6, 21.40),
        ("uniformer_small", 16, 41.7, 21.40),
        ("uniformer_small", 32, 109.4, 21.40),
        ("uniformer_base", 8, 40.1, 49.81),
        ("uniformer_base", 16, 96.6, 49.81),
        ("uniformer_base", 32, 258.3, 49.81),
    ],
)
def test_parameters_and_cost_are_the_published_ones(name: str, frames: int, gmacs: float, millions: float) -> None:
    with torch.device("meta"):
        model = create_model(name, num_frames=frames)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.005)
    assert count_gmacs(model) == pytest.approx(gmacs, rel=0.003)


@pytest.mark.parametrize("shape", [(1, 64, 64), (5, 100, 132), (3, 50, 39), (8, 96, 112)])
def test_any_clip_gives_the_grid_of_the_strides(shape: tuple[int, int, int]) -> None:
    T, H, W = shape
    model = create_model("uniformer_small", 3, **SMALL).eval()
    names = ["stem", "stage2", "stage4"]
    with torch.no_grad():
        grids = model.forward_intermediates(torch.randn(2, 3, *shape), names)
    for grid, stride, channels in zip(grids, (4, 8, 32), (8, 16, 32), strict=True):
        assert grid.shape == (2, (T + 1) // 2, H // stride, W // stride, channels)


def test_frames_under_a_position_of_the_last_grid_are_refused() -> None:
    with pytest.raises(UserError, match=r"the clip is \(1, 3, 4, 31, 64\); .* frames of 32x32 or more"):
        create_model("uniformer_small", 3, **SMALL)(torch.randn(1, 3, 4, 31, 64))
    with pytest.raises(UserError, match="16 frames of 16x224"):
        create_model("uniformer_small", 3, height=16)
    with pytest.raises(UserError, match="heads of 48"):
        create_model("uniformer_small", 3, head_dim=48)


def test_the_stem_is_the_convolution_of_its_weight() -> None:
    stem = randomised(Stem(8))
    assert isinstance(stem, Stem)
    x = torch.randn(2, 3, 7, 21, 18)
    by_convolution = F.conv3d(x, stem.weight, stem.bias, stride=(2, 4, 4), padding=(1, 0, 0)).permute(0, 2, 3, 4, 1)
    expected = F.layer_norm(by_convolution, (8,), stem.norm.weight, stem.norm.bias)
    assert torch.allclose(stem(x), expected, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_convolution_block_is_what_the_paper_says(training: bool) -> None:
    block = randomised(ConvBlock(8, CONFIG, 0.0)).train(training)
    p = dict(block.named_parameters())
    statistics = {name: value.clone() for name, value in block.named_buffers()}
    x = torch.randn(2, 8, 3, 6, 5)

    def norm(x_BCTHW: Tensor, name: str) -> Tensor:
        running = statistics[f"{name}.running_mean"], statistics[f"{name}.running_var"]
        return F.batch_norm(x_BCTHW, *running, p[f"{name}.weight"], p[f"{name}.bias"], training)

    def pointwise(x_BCTHW: Tensor, name: str) -> Tensor:
        return F.conv3d(x_BCTHW, p[f"{name}.weight"][..., None, None, None], p[f"{name}.bias"])

    def depthwise(x_BCTHW: Tensor, name: str, side: int) -> Tensor:
        return F.conv3d(x_BCTHW, p[f"{name}.weight"], p[f"{name}.bias"], padding=side // 2, groups=8)

    y = x + depthwise(x, "position", 3)
    y = y + pointwise(depthwise(pointwise(norm(y, "norm"), "before"), "conv", 5), "after")
    y = y + pointwise(F.gelu(pointwise(norm(y, "mlp_norm"), "mlp.fc1")), "mlp.fc2")
    assert torch.allclose(block(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3), y, atol=1e-4)


def test_an_attention_block_is_what_the_paper_says() -> None:
    block = randomised(AttentionBlock(16, CONFIG, 0.0))
    p = dict(block.named_parameters())
    x = torch.randn(2, 16, 2, 3, 4)
    y = x + F.conv3d(x, p["position.weight"], p["position.bias"], padding=1, groups=16)
    tokens = y.flatten(2).transpose(1, 2)  # (B, N, C)
    normed = F.layer_norm(tokens, (16,), p["norm.weight"], p["norm.bias"], 1e-6)
    query, key, value = F.linear(normed, p["attention.qkv.weight"], p["attention.qkv.bias"]).chunk(3, -1)
    heads = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        look = (query[..., part] @ key[..., part].transpose(1, 2) / 8**0.5).softmax(-1)
        heads.append(look @ value[..., part])
    tokens = tokens + F.linear(torch.cat(heads, -1), p["attention.proj.weight"], p["attention.proj.bias"])
    normed = F.layer_norm(tokens, (16,), p["mlp_norm.weight"], p["mlp_norm.bias"], 1e-6)
    hidden = F.gelu(F.linear(normed, p["mlp.fc1.weight"], p["mlp.fc1.bias"]))
    tokens = tokens + F.linear(hidden, p["mlp.fc2.weight"], p["mlp.fc2.bias"])
    out = block(x.permute(0, 2, 3, 4, 1)).flatten(1, 3)
    assert torch.allclose(out, tokens, atol=1e-4)


def test_a_norm_and_the_layer_after_it_are_one_matrix_product_in_evaluation() -> None:
    norm, linear = randomised(GridBatchNorm(8)).eval(), randomised(Linear(8, 4))
    assert isinstance(norm, GridBatchNorm) and isinstance(linear, Linear)
    x = torch.randn(2, 3, 4, 5, 8)
    assert torch.allclose(norm.then(linear, x), linear(norm(x)), atol=1e-5)
    assert norm.num_batches_tracked is not None and int(norm.num_batches_tracked) == 0


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 6])
def test_gradients_of_a_convolution_block_in_bf16_are_those_of_fp32(frames: int) -> None:
    """In a grid of fewer frames than the kernel, too: torch's own weight gradient is garbage there."""
    block = randomised(ConvBlock(16, CONFIG, 0.0)).train()
    x, weights = torch.randn(2, frames, 8, 8, 16), torch.randn(2, frames, 8, 8, 16)
    gradients = []
    for enabled in (False, True):
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (block(x).float() * weights).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in block.parameters() if p.grad is not None]))
    exact, rounded = gradients
    assert (exact - rounded).norm() < 0.05 * exact.norm()


def test_what_the_classifier_sees_is_the_mean_of_the_last_grid() -> None:
    model = randomised(create_model("uniformer_small", 3, **SMALL)).eval()
    grid = model.forward_features(torch.randn(2, 3, 4, 64, 64))
    features = model.forward_head(grid, pre_logits=True)
    assert torch.allclose(features, grid.flatten(1, 3).mean(1), atol=1e-6)
    assert torch.allclose(model.forward_head(grid), features @ model.head.weight.t() + model.head.bias, atol=1e-5)
