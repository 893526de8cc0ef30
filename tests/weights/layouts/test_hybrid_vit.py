"""ViTs of images inflated into hybrids: a still clip, and a single frame, are named as timm names the image."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights import load_foreign as load_foreign_module
from hybridvideo.weights.load_foreign import Wanted, load_foreign
from hybridvideo.weights.load_report import LoadReport
from hybridvideo.weights.load_weights import load_opened, load_weights
from hybridvideo.weights.recognise import architecture_of, layouts_of, recognise
from hybridvideo.weights.source import Source
from hybridvideo.weights.timm_weights import facts_of
from tests.models.baselines.test_baselines import randomised

SIZE: dict[str, Any] = {"depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": 64}
STAGE = {"heads": 3, "norm_eps": 1e-6}


def image_vit(name: str = "vit_small_patch16_224", **changes: Any) -> nn.Module:
    return randomised(timm.create_model(name, num_classes=7, **{**SIZE, **changes})).double().eval()


def video_vit(block: str = "divided", **changes: Any) -> VideoModel:
    stem = {"name": "patch", "widths": [48], "patch": [2, 16, 16]}
    stages = [{"block": block, "depth": 1, **STAGE}, {"block": block, "depth": 2, **STAGE}]
    size = {"frames": 4, "height": 64, "width": 64, "stages": stages}
    return create_model("vit_base", 7, **{**size, "stem": stem, **changes}).double().eval()


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, dtype=torch.float64)


def still(image_BCHW: Tensor, frames: int) -> Tensor:
    return image_BCHW[:, :, None].expand(-1, -1, frames, -1, -1)


@torch.no_grad()
def agree(net: nn.Module, model: VideoModel) -> bool:
    """Whether the video model gives the image network's logits for a still clip of any length and for a frame."""
    image = images()
    wanted = net(image)
    assert float(wanted.std()) > 0.1
    return all(torch.allclose(model(still(image, frames)), wanted, atol=1e-5) for frames in (1, 3, 4, 6))


@pytest.mark.parametrize("block", ["divided", "joint", "spatial"])
@pytest.mark.parametrize("inflation", ["mean", "centre"])
def test_a_vit_of_images_is_the_video_model_of_a_still_clip(block: str, inflation: str) -> None:
    net, model = image_vit(), video_vit(block, inflation=inflation)
    load_weights(model, net.state_dict())
    assert agree(net, model)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deit_tiny_patch16_224", {}),
        ("vit_base_patch32_224", {"img_size": 96, "embed_dim": 64, "num_heads": 1, "depth": 2}),
        ("vit_tiny_patch16_224", {"mlp_ratio": 2.0, "embed_dim": 64, "num_heads": 1}),
        ("vit_small_patch16_224", {"class_token": False, "global_pool": "avg", "embed_dim": 128, "num_heads": 2}),
        ("deit3_small_patch16_224", {}),  # layer scale, no position of the class token
        ("vit_medium_patch16_gap_256", {}),  # no bias of queries, keys and values; neither class token nor norm of it
        ("vit_base_patch16_224", {"qkv_bias": False}),
        ("vit_small_r26_s32_224", {"qkv_bias": False}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),  # registers, which have no positions
        ("vit_base_patch16_224", {"reg_tokens": 3}),  # registers that have
        ("vit_medium_patch16_reg1_gap_256", {}),  # a register without a class token
        ("vit_base_patch16_224", {"global_pool": "avg"}),  # a class token that only attention reads
    ],
)
def test_the_architecture_is_inferred_for_every_width_depth_and_pooling(name: str, changes: dict[str, Any]) -> None:
    net = image_vit(name, **{"embed_dim": 64, "num_heads": 1, **changes})
    layout = next(layout for layout in layouts_of(net.state_dict()) if layout.family == "Hybrid")
    model_name, inferred = architecture_of(layout, net.state_dict(), "")
    model = create_model(model_name, 7, **{**inferred, "frames": 4}).double().eval()
    load_weights(model, net.state_dict())
    side = changes.get("img_size", 64)
    image = torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(still(image, 4)), net(image), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("vit_small_r26_s32_224", 32),
        ("vit_base_r50_s16_224", 16),
        ("vit_small_resnet26d_224", 32),
        ("vit_small_resnet50d_s16_224", 16),
    ],
)
def test_a_vit_after_a_cnn_is_the_video_model_of_a_still_clip(name: str, stride: int) -> None:
    net = image_vit(name, mlp_ratio=4.0)
    stem = {"name": f"backbone/{name}", "stride": stride}
    stages = [{"block": "divided", "depth": 3, **STAGE}]
    size = {"frames": 3, "height": 64, "width": 64}
    model = create_model("conv_vit_base", 7, **size, stem=stem, dim=48, stages=stages).double().eval()
    load_weights(model, net.state_dict())
    image = images()[:1]
    assert torch.allclose(model(still(image, 3)), net(image), atol=1e-5)
    assert torch.allclose(model(still(image, 1)), net(image), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "stride"),
    [("vit_base_r50_s16_224", 16), ("vit_small_resnet50d_s16_224", 16), ("vit_base_resnet26d_224", 32)],
)
def test_the_cnn_and_the_width_of_a_conv_vit_are_inferred(name: str, stride: int) -> None:
    state = image_vit(name).state_dict()
    model_name, changes = architecture_of(layouts_of(state)[0], state, "")
    assert model_name == "conv_vit_base" and changes["stem"] == {"name": f"backbone/{name}", "stride": stride}
    assert changes["dim"] == 48 and changes["height"] == 64 and changes["stages"][0]["depth"] == 3


def test_a_cnn_that_no_stem_has_is_refused_with_those_that_there_are() -> None:
    state = image_vit("vit_tiny_r_s16_p8_224").state_dict()
    with pytest.raises(UserError, match=r"stages of \[\] bottlenecks; known are those of vit_small_r26_s32_224, "):
        architecture_of(layouts_of(state)[0], state, "")


def test_a_hybrid_may_mix_the_blocks_of_a_vit_with_others() -> None:
    net = image_vit()
    stages = [
        {"block": "spatial", "depth": 2, **STAGE},
        {"block": "temporal", "depth": 1, "mlp_ratio": 0.0, **STAGE},
        {"block": "joint", "depth": 1, "temporal": "conv", "dropout": 0.1, **STAGE},
    ]
    model = video_vit(stages=stages)
    report = load_weights(model, net.state_dict())
    assert agree(net, model)
    assert "stages.1.blocks.0.branches.0.inner.qkv.weight" in report.fresh
    assert "stages.2.blocks.0.temporal.mixer.after.weight" in report.filled


def test_without_a_class_token_the_images_is_left_out_and_the_head_is_new() -> None:
    net, model = image_vit(), video_vit(class_token=False)
    report = load_weights(model, net.state_dict(), head="drop")
    assert "head.classifier.weight" in report.fresh and not any("class_token" in name for name in report.matched)


def test_the_order_of_frames_matters_once_time_is_trained() -> None:
    net, model = image_vit(), video_vit()
    load_weights(model, net.state_dict())
    for name in ("stages.0.blocks.0.branches.0.inner.proj.weight", "position.time_CT"):
        assert not model.get_parameter(name).any()
        torch.nn.init.normal_(model.get_parameter(name))
    clip = torch.randn(1, 3, 4, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.allclose(model(clip), model(clip.flip(2)), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_base_patch16_siglip_224", "in no layout known here"),
        ("deit_tiny_distilled_patch16_224", "distilled and averages two heads, which no hybrid has; take one without"),
    ],
)
def test_parts_that_no_hybrid_has_are_refused(name: str, said: str) -> None:
    state = image_vit(name).state_dict()
    for load_it in (lambda: load_weights(video_vit(), state), lambda: load_foreign(state)):
        with pytest.raises(UserError, match=said):
            load_it()


# --- a norm before the blocks, and other activations ------------------------------------------------------------------


def clip_vit(**changes: Any) -> VideoModel:
    return video_vit(first_norm="layer", norm_eps=1e-5, **changes)


def stages_with(**changes: Any) -> list[dict[str, Any]]:
    return [{"block": "divided", "depth": 3, **STAGE, "norm_eps": 1e-5, **changes}]


def stated(net: nn.Module) -> Source:
    """The weights as `timm:NAME` opens them."""
    return Source("timm:vit", dict(net.state_dict()), facts=facts_of(net))


def load(model: VideoModel, source: Source) -> LoadReport:
    return load_opened(model, source, recognise(source.state, model, source.where))


@pytest.mark.parametrize("name", ["vit_base_patch16_clip_224", "vit_xsmall_patch16_clip_224"])
def test_a_vit_with_a_norm_before_its_blocks_is_the_video_model_with_a_first_norm(name: str) -> None:
    net, model = image_vit(name), clip_vit(stages=stages_with())
    report = load_weights(model, net.state_dict())
    assert agree(net, model)
    assert report.notes == ["activation: gelu, as in the model; OpenAI's CLIP needs quick_gelu, which no file states"]


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("vit_base_patch16_clip_224", "gelu"),
        ("vit_base_patch16_clip_quickgelu_224", "quick_gelu"),
        ("vit_base_patch16_siglip_gap_224", "gelu"),
    ],
)
def test_what_timm_states_of_a_network_is_inferred_with_it(
    name: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = image_vit(name)
    source = stated(net)
    monkeypatch.setattr(load_foreign_module, "open_source", lambda _: source)
    model, card, report = load_foreign("timm:vit", Wanted(frames=2, size=64))
    assert card.name == "vit_base" and card.settings["stages"][0]["activation"] == activation
    assert agree(net, model.double().eval()) and not any("quick_gelu" in note for note in report.notes)


def test_another_activation_than_that_of_the_weights_is_refused() -> None:
    net = image_vit("vit_base_patch16_clip_quickgelu_224")
    with pytest.raises(UserError, match="have activation quick_gelu, and the model's gelu; set activation in the"):
        load(clip_vit(stages=stages_with()), stated(net))
    model = clip_vit(stages=stages_with(activation="quick_gelu"))
    load(model, stated(net))
    assert agree(net, model)


def test_other_heads_than_those_of_the_weights_are_refused() -> None:
    net = image_vit()
    with pytest.raises(UserError, match="have heads 3, and the model's 4; set heads in the model's stages to 3"):
        load(video_vit(stages=stages_with(heads=4)), stated(net))
    load_weights(video_vit(stages=stages_with(heads=4)), net.state_dict())  # which do not state them


def test_a_norm_that_only_weights_or_only_the_model_have_is_refused_with_the_setting() -> None:
    with pytest.raises(UserError, match="first_norm to layer, and norm_eps, also in its stages, to 1e-05"):
        load_weights(video_vit(), image_vit("vit_base_patch16_clip_224").state_dict())
    with pytest.raises(UserError, match="this ViT has none; set first_norm to none"):
        load_weights(clip_vit(), image_vit().state_dict())


@pytest.mark.parametrize("name", ["vit_st_adapter_base", "vit_aim_base", "vit_zeroi2v_base"])
def test_adapters_start_from_clip(name: str) -> None:
    net = image_vit("vit_base_patch16_clip_224")
    changes = {"stem": {"widths": [48]}, "stages": stages_with(block="spatial"), "adapter": {"dim": 16}}
    size = {"frames": 4, "height": 64, "width": 64}
    model = create_model(name, 7, first_norm="layer", norm_eps=1e-5, **size, **changes).double().eval()
    load_weights(model, net.state_dict())
    assert agree(net, model) and not model.get_parameter("first_norm.weight").requires_grad


# --- registers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["divided", "joint", "spatial"])
@pytest.mark.parametrize(
    ("name", "class_token"), [("vit_small_patch14_reg4_dinov2", True), ("vit_medium_patch16_reg4_gap_256", False)]
)
def test_a_vit_with_registers_is_the_video_model_of_a_still_clip(name: str, class_token: bool, block: str) -> None:
    net = image_vit(name, patch_size=16)
    stages = [{"block": block, "depth": 3, "layer_scale": 1e-5, **STAGE}]
    pooled = {"norm": "none", "head": {"norm": "layer", "norm_eps": 1e-6}}
    ends: dict[str, Any] = {} if class_token else pooled
    model = video_vit(registers=4, class_token=class_token, stages=stages, **ends)
    load_weights(model, net.state_dict())
    assert agree(net, model)


def test_registers_that_only_weights_or_only_the_model_have_are_refused_with_the_setting() -> None:
    state = image_vit("vit_small_patch14_reg4_dinov2", patch_size=16).state_dict()
    for registers in (0, 3):
        with pytest.raises(UserError, match=f"4 registers, and the model {registers}; set registers to 4; load_model"):
            load_weights(video_vit(registers=registers), state)
    with pytest.raises(UserError, match="0 registers, and the model 4; set registers to 0; load_model"):
        load_weights(video_vit(registers=4), image_vit().state_dict())
    pooled = image_vit(global_pool="avg").state_dict()
    with pytest.raises(UserError, match="set registers to 1, and class_token to false; load_model"):
        load_weights(video_vit(), pooled)


def test_a_vit_whose_model_is_not_named_is_still_taken_for_timesformer() -> None:
    state = image_vit().state_dict()
    assert layouts_of(state)[0].family == "TimeSformer"


@pytest.mark.parametrize("settings", [{"init_values": 0.1}, {"no_embed_class": True}])
def test_a_vit_that_timesformer_cannot_hold_is_taken_for_a_hybrid(settings: dict[str, Any]) -> None:
    net = image_vit(embed_dim=64, num_heads=1, **settings)
    model, card, _ = load_foreign(net.state_dict(), Wanted(frames=2))
    assert card.name == "vit_base"
    assert agree(net, model.double().eval())


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "halonet26t"])
def test_networks_of_images_with_other_parts_are_no_known_layout(name: str) -> None:
    with torch.device("meta"):
        shapes = timm.create_model(name, num_classes=7).state_dict()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}
    with pytest.raises(UserError, match="in no layout known here"):
        load_foreign(state)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("vit_base", "vit_small_patch16_224"),
        ("conv_vit_base", "vit_small_r26_s32_224"),
        ("vit_aim_base", "vit_small_patch16_224"),
    ],
)
def test_named_variants_take_every_tensor_of_their_image_weights(name: str, image: str) -> None:
    net, model = timm.create_model(image), create_model(name, 1000)
    report = load_weights(model, net.state_dict())
    assert not report.left_out and len(report.matched) >= len(net.state_dict()) - 1  # token and table: one position
