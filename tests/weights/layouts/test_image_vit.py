"""Image ViTs with random weights into video models: on a still clip, the image model's logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from transformers import ViTConfig, ViTForImageClassification

from hybridvideo.models import create_model
from hybridvideo.models.published.timesformer import TimeSformer
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.layouts.layout import Layout
from hybridvideo.weights.load_weights import load_weights

SIZE = {"dim": 64, "depth": 2, "heads": 1, "height": 48, "width": 48}


def of_timm() -> nn.Module:
    return timm.create_model(
        "vit_base_patch16_224", img_size=48, embed_dim=64, depth=2, num_heads=1, num_classes=6
    )  # fmt: skip


def of_torchvision() -> nn.Module:
    return VisionTransformer(48, 16, num_layers=2, num_heads=1, hidden_dim=64, mlp_dim=256, num_classes=6)


def of_hugging_face() -> nn.Module:
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=256, image_size=48,
        num_labels=6, layer_norm_eps=1e-6,
    )  # fmt: skip
    return ViTForImageClassification(config)


def randomised(make: Callable[[], nn.Module]) -> nn.Module:
    """With no parameter at zero or one."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 0.1 if value.ndim > 1 else 0.3
            value.copy_(torch.randn_like(value) * scale + (value == 1))
            assert value.any(), name
    return model


def files_of_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of its older version, which its files still have."""
    return {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value for key, value in state.items()
    }


def files_of_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of its files, from those in memory."""
    names = {"vit.layers": "vit.encoder.layer", "o_proj": "output.dense"}
    names |= {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    names |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


NAMINGS = {
    "timm": (of_timm, dict),
    "torchvision": (of_torchvision, dict),
    "torchvision's files": (of_torchvision, files_of_torchvision),
    "Hugging Face": (of_hugging_face, dict),
    "Hugging Face's files": (of_hugging_face, files_of_hugging_face),
}


def logits_of(model: nn.Module, image: Tensor) -> Tensor:
    out = model(image)
    return out if isinstance(out, Tensor) else out.logits


def layouts_for(state: dict[str, Tensor]) -> list[Layout]:
    return [layout for layout in LAYOUTS if layout.fits(state)]


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_still_clip_has_the_logits_of_the_image_model(naming: str) -> None:
    make, renaming = NAMINGS[naming]
    image_model = randomised(make)
    state = renaming(image_model.state_dict())
    model = create_model("timesformer_base", 6, attention="space", frames=3, **SIZE).eval()
    load_weights(model, state)
    image = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        wanted = logits_of(image_model, image)
        assert (model(image[:, :, None].expand(-1, -1, 3, -1, -1)) - wanted).abs().max() < 1e-4
    assert wanted.std() > 0.01


@pytest.mark.parametrize("naming", NAMINGS)
def test_each_naming_is_known_and_found_back(naming: str) -> None:
    make, renaming = NAMINGS[naming]
    state = renaming(randomised(make).state_dict())
    fitting = layouts_for(state)
    assert [layout.family for layout in fitting] == ["TimeSformer", "Hybrid", "VideoMAE"]
    for layout in fitting:
        name, changes = layout.architecture(state)
        settings = create_model(name, 6, **changes).settings()
        if layout.family == "Hybrid":  # no way back: `fix` adds up tensors
            assert (settings["height"], settings["width"]) == (SIZE["height"], SIZE["width"])
            assert settings["stages"][0]["depth"] == SIZE["depth"] and settings["stem"]["widths"] == [SIZE["dim"]]
            continue
        assert {key: settings[key] for key in SIZE} == SIZE
        back = layout.to_theirs(layout.to_ours(state))
        left_out = {key for key in state if layout.is_computed(key)}
        assert back.keys() == state.keys() - left_out
        assert all(torch.equal(back[key], state[key]) for key in back)


def test_temporal_attention_starts_as_a_copy_of_that_in_space() -> None:
    torch.manual_seed(1)
    model = create_model("timesformer_base", 6, frames=3, **SIZE)
    assert isinstance(model, TimeSformer) and model.position.time_CT is not None
    fresh = [block.temporal.linear.weight.clone() for block in model.blocks]
    nn.init.ones_(model.position.time_CT)
    load_weights(model, randomised(of_timm).state_dict())
    for block, linear in zip(model.blocks, fresh, strict=True):
        for ours, copied in ((block.temporal.qkv, block.attention.qkv), (block.temporal.proj, block.attention.proj)):
            assert torch.equal(ours.weight, copied.weight) and torch.equal(ours.bias, copied.bias)
        assert torch.equal(block.temporal.norm.weight, block.attention_norm.weight)
        assert torch.equal(block.temporal.linear.weight, linear)
    assert not model.position.time_CT.any()


def test_joint_attention_takes_an_image_model_without_time() -> None:
    model = create_model("timesformer_base", 6, attention="joint", frames=3, **SIZE).eval()
    load_weights(model, randomised(of_timm).state_dict())
    clip = torch.randn(1, 3, 3, 48, 48)
    with torch.no_grad():
        assert torch.allclose(model(clip), model(clip[:, :, [2, 0, 1]]), atol=1e-4)


@pytest.mark.parametrize("naming", NAMINGS)
def test_videomae_takes_the_blocks_and_spreads_the_patches_over_its_frames(naming: str) -> None:
    make, renaming = NAMINGS[naming]
    image_model = randomised(make)
    model = create_model("videomae_base", 6, frames=4, **SIZE)
    report = load_weights(model, renaming(image_model.state_dict()))
    assert not report.missing and not report.unexpected
    patches = next(value for value in image_model.state_dict().values() if value.ndim == 4)
    assert torch.allclose(model.get_parameter("patches.weight").sum(2), patches, atol=1e-6)
