"""VideoMAE and its pretraining against transformers, with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import VideoMAEConfig as TheirConfig
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification

from hybridvideo.errors import UserError
from hybridvideo.models import MODELS, PRETRAINING, create_model, create_pretraining
from hybridvideo.models.contract import count_gmacs
from hybridvideo.models.parts.attention import JointAttention
from hybridvideo.models.published.videomae import SinusoidPosition, VideoMAE, sinusoids
from hybridvideo.models.published.videomae_pretraining import VideoMAEPretraining, reconstruction_targets
from hybridvideo.models.variants import IMAGENET, Variant
from hybridvideo.weights.layouts.videomae import IN_MEMORY, fine_tuned, pretrained

SMALL = {"dim": 48, "depth": 3, "heads": 4}
DECODER = {"decoder_dim": 24, "decoder_depth": 2, "decoder_heads": 2}


def randomised(model: nn.Module, seed: int = 0) -> Any:
    """Every parameter random, so that none hides at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            centre = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(centre + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def their_config(**changes: Any) -> TheirConfig:
    sizes = {
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192,
        "decoder_hidden_size": 24, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 96, "layer_norm_eps": 1e-6, "num_labels": 7,
    }  # fmt: skip
    return TheirConfig(**{**sizes, **changes})


def clip(frames: int, height: int, width: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(1))


def tubes(frames: int, places: int, masked: int, batch: int = 2) -> Tensor:
    """The same places hidden in all frames, others in each clip."""
    generator = torch.Generator().manual_seed(2)
    order = torch.rand(batch, places, generator=generator).argsort(1)
    return (order < masked).repeat(1, frames)


@pytest.mark.parametrize(
    ("frames", "height", "width", "patch", "dim", "heads"),
    [
        (16, 64, 64, (2, 16, 16), 48, 4),
        (6, 48, 80, (2, 16, 16), 96, 3),
        (8, 32, 64, (4, 16, 16), 80, 1),
        (10, 32, 24, (2, 8, 8), 40, 5),
    ],
)
def test_logits_are_those_of_transformers(
    frames: int, height: int, width: int, patch: tuple[int, int, int], dim: int, heads: int
) -> None:
    config = their_config(
        num_frames=frames, image_size=(height, width), tubelet_size=patch[0], patch_size=patch[1],
        hidden_size=dim, num_attention_heads=heads, intermediate_size=4 * dim,
    )  # fmt: skip
    theirs = randomised(VideoMAEForVideoClassification(config))
    theirs.fc_norm.eps = 1e-6  # the authors'; transformers has 1e-5
    sizes = {"patch": patch, "dim": dim, "depth": 3, "heads": heads}
    ours = create_model("videomae_base", 7, num_frames=frames, image_size=(height, width), **sizes).eval()
    ours.load_state_dict(fine_tuned(IN_MEMORY).to_ours(theirs.state_dict()))
    x = clip(frames, height, width)
    with torch.no_grad():
        logits, expected = ours(x), theirs(x.transpose(1, 2)).logits
    assert expected.std() > 0.1
    assert (logits - expected).abs().max() <= 1e-4


@pytest.mark.parametrize(("frames", "height", "width", "masked"), [(16, 64, 64, 14), (6, 48, 80, 5)])
def test_reconstructions_and_loss_are_those_of_transformers(frames: int, height: int, width: int, masked: int) -> None:
    theirs = randomised(VideoMAEForPreTraining(their_config(num_frames=frames, image_size=(height, width),
                                                            use_mean_pooling=False)))  # fmt: skip
    theirs.decoder.norm.eps = 1e-6
    ours = create_pretraining("videomae_base", frames=frames, image_size=(height, width), **SMALL, **DECODER).eval()
    ours.load_state_dict(pretrained(IN_MEMORY).to_ours(theirs.state_dict()))
    x, mask = clip(frames, height, width), tubes(frames // 2, height * width // 256, masked)
    with torch.no_grad():
        pixels, expected = ours(x, mask), theirs(x.transpose(1, 2), bool_masked_pos=mask)
    assert pixels.shape == (2, masked * frames // 2, 1536)
    assert (pixels - expected.logits).abs().max() <= 1e-4
    targets = reconstruction_targets(x, mask, ours.config.patch, ours.normalisation)
    assert nn.functional.mse_loss(pixels, targets).item() == pytest.approx(expected.loss.item(), rel=1e-5)


def test_targets_without_normalisation_are_pixels() -> None:
    pixels = torch.rand(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (IMAGENET.mean, IMAGENET.std))
    mask = torch.tensor([[False] * 5 + [True] + [False] * 2])  # second pair of frames, upper right
    targets = reconstruction_targets((pixels - mean) / std, mask, (2, 16, 16), IMAGENET, per_patch=False)
    expected = pixels[0, :, 2:, :16, 16:].permute(1, 2, 3, 0).flatten()
    assert torch.allclose(targets[0, 0], expected, atol=1e-6)


def test_the_encoder_does_not_see_masked_tubelets() -> None:
    ours = randomised(create_pretraining("videomae_base", frames=4, image_size=32, **SMALL, **DECODER))
    x, mask = clip(4, 32, 32, batch=1), torch.tensor([[False, True, True, True] * 2])
    other = x.clone()
    other[..., :16, 16:] += 1
    other[..., 16:, :] -= 1
    assert torch.equal(ours(x, mask), ours(other, mask))
    other[..., 0, 0] += 1
    assert not torch.allclose(ours(x, mask), ours(other, mask), atol=1e-4)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 8), "the mask is float32"),
        (torch.ones(2, 7, dtype=torch.bool), "give bool \\(2, 8\\)"),
        (torch.ones(2, 8, dtype=torch.bool), "neither none nor all"),
        (torch.zeros(2, 8, dtype=torch.bool), "neither none nor all"),
        (torch.arange(16).reshape(2, 8) < 5, "the same number"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(mask: Tensor, message: str) -> None:
    ours = create_pretraining("videomae_small", frames=4, image_size=32, **SMALL, **DECODER)
    with pytest.raises(UserError, match=message):
        ours(clip(4, 32, 32), mask)


def test_pretraining_learns_with_and_without_checkpointing() -> None:
    x, mask, grads = clip(4, 32, 32), tubes(2, 4, 3), []
    for again in (False, True):
        torch.manual_seed(0)
        changes = {"frames": 4, "image_size": 32, "grad_checkpointing": again, **SMALL, **DECODER}
        model = create_pretraining("videomae_base", **changes).train()
        targets = reconstruction_targets(x, mask, model.config.patch, model.normalisation)
        nn.functional.mse_loss(model(x, mask), targets).backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads[0].values())
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])


def test_pretrainings_are_those_of_the_models_and_rebuilt_from_their_settings() -> None:
    for name, variant in PRETRAINING.items():
        classifier = MODELS[name]
        assert isinstance(classifier, Variant)
        assert (classifier.config.dim, classifier.config.depth) == (variant.config.dim, variant.config.depth)
    model = create_pretraining("videomae_large", num_frames=8, image_size=32, **SMALL, **DECODER)
    twin = create_pretraining("videomae_small", **model.settings())
    assert isinstance(twin, VideoMAEPretraining) and twin.config == model.config
    with pytest.raises(UserError, match="did you mean 'videomae_base'"):
        create_pretraining("videomae_bas")
    with pytest.raises(UserError, match="did you mean 'decoder_dim'"):
        create_pretraining("videomae_base", decoder_dims=64)


@pytest.mark.parametrize(
    ("name", "gmacs", "millions"),
    [
        ("videomae_small", 56.9, 22.0),
        ("videomae_base", 180.3, 86.5),
        ("videomae_large", 596.8, 304.3),
        ("videomae_huge", 1191, 632.1),
    ],
)
def test_work_and_size_are_as_published(name: str, gmacs: float, millions: float) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert count_gmacs(model) == pytest.approx(gmacs, abs=0.06)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_positions_are_sinusoids_of_the_flattened_index() -> None:
    table = sinusoids((3, 2, 5), 8)
    assert table.shape == (3, 2, 5, 8)
    index = torch.tensor(2 * 10 + 1 * 5 + 4, dtype=torch.float64)
    assert table[2, 1, 4, 0].item() == pytest.approx(index.sin().item(), abs=1e-6)
    assert table[2, 1, 4, 5].item() == pytest.approx((index / 10000 ** (4 / 8)).cos().item(), abs=1e-6)


def test_another_grid_at_call_time_gets_the_resized_table() -> None:
    position = SinusoidPosition(16, (4, 6, 6))
    assert torch.equal(position.table((4, 6, 6)), sinusoids((4, 6, 6), 16))
    table = position.table((8, 3, 9))
    assert table.shape == (8, 3, 9, 16)
    assert torch.allclose(table.mean((0, 1, 2))[8:], sinusoids((4, 6, 6), 16).mean((0, 1, 2))[8:], atol=0.05)
    assert torch.allclose(position.table((8, 6, 6))[0], sinusoids((4, 6, 6), 16)[0], atol=1e-6)


def test_any_clip_of_whole_tubelets_is_taken_and_no_other() -> None:
    model = create_model("videomae_base", 5, frames=8, image_size=64, **SMALL).eval()
    for frames, height, width in [(2, 16, 16), (12, 48, 80), (8, 64, 64)]:
        assert model(clip(frames, height, width)).shape == (2, 5)
        assert model.forward_features(clip(frames, height, width)).shape == (
            2,
            frames // 2,
            height // 16,
            width // 16,
            48,
        )
    for shape in [(7, 64, 64), (8, 60, 64)]:
        with pytest.raises(UserError, match="does not divide into patches"):
            model(clip(*shape))


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(UserError, match="16x224x220 does not divide into tubelets of 2x16x16"):
        create_model("videomae_base", image_size=(224, 220))
    with pytest.raises(UserError, match="50 channels do not divide into 12 heads"):
        create_model("videomae_base", dim=50)
    with pytest.raises(UserError, match="depth is 0"):
        create_pretraining("videomae_base", decoder_depth=0)


def test_a_bias_of_the_keys_changes_nothing() -> None:
    attention = randomised(JointAttention(32, 4))
    x = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(0))
    before = attention(x)
    attention(x).square().sum().backward()
    assert attention.qkv.bias.grad[32:64].abs().max() < 1e-4 * attention.qkv.bias.grad.abs().max()
    with torch.no_grad():
        attention.qkv.bias[32:64] += 3
    assert torch.allclose(attention(x), before, atol=1e-5)


def test_classification_starts_from_even_predictions() -> None:
    model = create_model("videomae_base", 10, frames=4, image_size=32, **SMALL)
    assert isinstance(model, VideoMAE)
    for _ in range(2):
        assert model.eval()(clip(4, 32, 32)).abs().max() < 0.01
        model.reset_classifier(10)
