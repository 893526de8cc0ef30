"""The libraries' networks under the contract: the same results, at any size; what was published of them."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights
from torchvision.models import video as torchvision_video
from torchvision.models.video import mvit

from hybridvideo.config.data import Normalisation
from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.models import MODELS, create_model
from hybridvideo.models.baselines.layers import PaddedConv3d, WindowPool
from hybridvideo.models.baselines.pytorchvideo import PYTORCHVIDEO, models_of, slow_frames
from hybridvideo.models.baselines.torchvision import TORCHVISION_VIDEO
from hybridvideo.models.contract import VideoModel, count_gmacs, count_parameters
from hybridvideo.models.variants import Variant
from hybridvideo.weights.load_weights import load_weights
from tests.models.small import small

BASELINES = [*PYTORCHVIDEO, *TORCHVISION_VIDEO]


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic off its initial value, so that nothing can be left out unseen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in [*net.named_parameters(), *net.named_buffers()]:
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif value.ndim <= 3 and value.is_floating_point():
                value.add_(torch.randn_like(value) * 0.1)
    return net.eval()


def difference(ours: VideoModel, theirs: nn.Module, x_BCTHW: torch.Tensor, given: Any = None) -> float:
    """Of the logits, relative to the spread of theirs, after their weights went into ours by the generic loader."""
    load_weights(ours, theirs.state_dict())
    with torch.no_grad():
        wanted = theirs(x_BCTHW if given is None else given)
        return float((ours.eval()(x_BCTHW) - wanted).abs().max() / wanted.std())


# --- the same results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
@pytest.mark.parametrize("shape", [(8, 32, 32), (5, 36, 44)])
def test_torchvision_resnets_give_torchvisions_logits(name: str, shape: tuple[int, int, int]) -> None:
    theirs = randomised(getattr(torchvision_video, name)(num_classes=7))
    assert difference(create_model(name, 7), theirs, torch.randn(2, 3, *shape)) < 1e-4


@pytest.mark.parametrize("shape", [(14, 224, 224)])
def test_s3d_gives_torchvisions_logits(shape: tuple[int, int, int]) -> None:
    theirs = randomised(torchvision_video.s3d(num_classes=7))
    assert difference(create_model("s3d", 7), theirs, torch.randn(1, 3, *shape)) < 1e-4


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s"])
@pytest.mark.parametrize("shape", [(4, 64, 96)])
def test_torchvision_mvit_gives_torchvisions_logits(
    name: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, height, width = shape
    smaller = {"spatial_size": (height, width), "temporal_size": frames}
    whole = mvit._mvit
    monkeypatch.setattr(mvit, "_mvit", lambda *blocks, **settings: whole(*blocks, **{**settings, **smaller}))
    theirs = randomised(getattr(torchvision_video, name)(num_classes=7))
    ours = create_model(name, 7, num_frames=frames, image_size=(height, width))
    assert difference(ours, theirs, torch.randn(2, 3, *shape)) < 1e-4


NARROW = {"stem_dim_out": 8, "model_num_class": 7}
ON_ALL = ((3, 1, 1), [(3, 1, 1), (1, 1, 1)], [(3, 1, 1), (1, 1, 1)], [(1, 1, 1), (3, 1, 1)])
POOLED = {"stage1_pool": nn.MaxPool3d}
RESNETS = {  # as pytorchvideo's hub builds them, but narrow
    "slow_r50": ("resnet.create_resnet", {"stem_conv_kernel_size": (1, 7, 7), "head_pool_kernel_size": (8, 7, 7)}),
    "c2d_r50": (
        "resnet.create_resnet",
        {"stem_conv_kernel_size": (1, 7, 7), "stage_conv_a_kernel_size": ((1, 1, 1),) * 4, **POOLED},
    ),
    "i3d_r50": (
        "resnet.create_resnet",
        {"stem_conv_kernel_size": (5, 7, 7), "stage_conv_a_kernel_size": ON_ALL, **POOLED},
    ),
    "csn_r101": (
        "csn.create_csn",
        {"model_depth": 101, "stem_pool": nn.MaxPool3d, "head_pool_kernel_size": (4, 7, 7)},
    ),
    "r2plus1d_r50": ("r2plus1d.create_r2plus1d", {"head_activation": None}),
}


def build(path: str, **settings: Any) -> nn.Module:
    module, _, name = path.partition(".")
    net: nn.Module = getattr(models_of(module), name)(**settings)
    return net


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("slow_r50", (8, 224, 224)),
        ("slow_r50", (10, 256, 260)),
        ("c2d_r50", (8, 224, 224)),
        ("i3d_r50", (9, 224, 250)),
        ("csn_r101", (32, 224, 224)),
        ("r2plus1d_r50", (16, 224, 224)),
    ],
)
def test_resnets_give_pytorchvideos_logits(name: str, shape: tuple[int, int, int]) -> None:
    path, settings = RESNETS[name]
    theirs = randomised(build(path, **settings, **NARROW))
    assert difference(create_model(name, 7, channels=8), theirs, torch.randn(1, 3, *shape)) < 1e-4


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x3d_xs", (4, 160, 160)), ("x3d_xs", (4, 182, 182)), ("x3d_s", (13, 160, 160)), ("x3d_m", (16, 224, 224))],
)
def test_x3d_gives_pytorchvideos_logits(name: str, shape: tuple[int, int, int]) -> None:
    frames, size = MODELS[name].config.window[0], 32 * MODELS[name].config.window[1]
    narrow = {"width_factor": 1.0, "depth_factor": 1.0}
    settings = {"input_clip_length": frames, "input_crop_size": size, "model_num_class": 7, "head_activation": None}
    theirs = randomised(build("x3d.create_x3d", **settings, **narrow))
    assert difference(create_model(name, 7, **narrow), theirs, torch.randn(1, 3, *shape)) < 1e-4


def test_logits_are_those_that_pytorchvideo_puts_through_a_softmax() -> None:
    theirs = randomised(build("x3d.create_x3d", input_clip_length=4, input_crop_size=160, model_num_class=7))
    ours = create_model("x3d_xs", 7)
    load_weights(ours, theirs.state_dict())
    x = torch.randn(1, 3, 4, 160, 160)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(x).softmax(1), theirs(x), atol=1e-6)


@pytest.mark.parametrize(("name", "fusion"), [("slowfast_r50", 7), ("slowfast_r101", 5)])
@pytest.mark.parametrize("shape", [(32, 224, 224), (32, 256, 240)])
def test_slowfast_gives_pytorchvideos_logits(name: str, fusion: int, shape: tuple[int, int, int]) -> None:
    narrow = {"stem_dim_outs": (16, 2), "model_num_class": 7, "model_depth": 18}
    theirs = randomised(build("slowfast.create_slowfast", slowfast_fusion_conv_kernel_size=(fusion, 1, 1), **narrow))
    x = torch.randn(1, 3, *shape)
    slow = x[:, :, torch.linspace(0, 31, 8).long()]
    assert difference(create_model(name, 7, channels=16, depth=18), theirs, x, [slow, x]) < 1e-4


def test_pytorchvideos_mvit_gives_its_logits() -> None:
    from pytorchvideo.models.hub.vision_transformers import mvit_base_16x4

    theirs = randomised(mvit_base_16x4(spatial_size=(64, 96), temporal_size=4, head_num_classes=7))
    ours = create_model("mvit_base_16x4", 7, num_frames=4, image_size=(64, 96))
    assert difference(ours, theirs, torch.randn(2, 3, 4, 64, 96)) < 1e-4


# --- any size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("shape", [(12, 52, 76), (16, 33, 40)])
def test_other_numbers_of_frames_and_sizes_work(name: str, shape: tuple[int, int, int]) -> None:
    with torch.no_grad():
        logits = small(name).eval()(torch.randn(1, 3, *shape))
    assert logits.shape == (1, 5) and logits.isfinite().all()


@pytest.mark.parametrize("name", [name for name in BASELINES if not name.startswith("slowfast")])
def test_a_single_frame_is_a_clip(name: str) -> None:
    with torch.no_grad():
        assert small(name).eval()(torch.randn(1, 3, 1, 64, 64)).isfinite().all()


def test_a_window_larger_than_the_grid_is_cut_to_it() -> None:
    x = torch.randn(2, 3, 4, 5, 9)
    assert torch.allclose(WindowPool((8, 7, 7))(x), torch.nn.functional.avg_pool3d(x, (4, 5, 7), stride=1), atol=1e-6)
    assert torch.allclose(WindowPool((8, 9, 9))(x)[..., 0, 0, 0], x.mean((2, 3, 4)), atol=1e-6)


# --- SlowFast ---------------------------------------------------------------------------------------------------------


def test_the_slow_pathway_sees_frames_from_the_first_to_the_last() -> None:
    assert slow_frames(32, 4).tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert slow_frames(4, 4).tolist() == [0]


@pytest.mark.parametrize(("frames", "give"), [(30, 32), (3, 4), (37, 36)])
def test_slowfast_says_which_numbers_of_frames_it_takes(frames: int, give: int) -> None:
    with pytest.raises(UserError, match=f"multiple of alpha = 4 frames and got {frames}; give {give}"):
        small("slowfast_r50")(torch.randn(1, 3, frames, 64, 64))
    with pytest.raises(UserError, match="multiple of alpha"):
        create_model("slowfast_r50", num_frames=frames)


def test_both_pathways_share_a_grid_without_loss() -> None:
    model: Any = small("slowfast_r50")
    slow, fast = torch.randn(2, 5, 3, 4, 6), torch.randn(2, 2, 12, 4, 6)
    grid = model.together(slow, fast)
    assert grid.shape == (2, 3, 4, 6, 5 + 4 * 2)
    assert torch.equal(grid[:, 1, ..., 5:7], fast[:, :, 4].permute(0, 2, 3, 1))
    assert all(torch.equal(a, b) for a, b in zip(model.apart(grid, 2), (slow, fast), strict=True))


# --- short clips on CPU -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "stride", "groups"), [(3, 1, 1), (3, 2, 1), (3, 1, 16), (3, 2, 16), (5, 1, 1), (7, 2, 1)]
)
@pytest.mark.parametrize("frames", [1, 2, 5, 9])
@pytest.mark.parametrize("low", [False, True])
def test_convolutions_have_the_right_gradients_however_short_the_clip(
    kernel: int, stride: int, groups: int, frames: int, low: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(16, 16, (kernel, 3, 3), (stride, 1, 1), (kernel // 2, 1, 1), groups=groups, bias=False)
    exact = nn.Conv3d(16, 16, (kernel, 3, 3), (stride, 1, 1), (kernel // 2, 1, 1), groups=groups, bias=False).double()
    exact.load_state_dict(conv.state_dict())
    conv.__class__ = PaddedConv3d
    x = torch.randn(2, 16, frames, 7, 7)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        out = conv(x.contiguous(memory_format=torch.channels_last_3d))
    wanted = exact(x.double())
    gradient = torch.randn_like(wanted)
    out.float().backward(gradient.float())
    wanted.backward(gradient)
    for value, truth in [(out, wanted), (conv.weight.grad, exact.weight.grad)]:
        assert (value.double() - truth).norm() < (1e-2 if low else 1e-5) * truth.norm()


def test_r3d_trains_in_bf16_at_its_published_length() -> None:
    model, x = create_model("r3d_18", 5, depths=(1, 1, 1, 1)).train(), torch.randn(2, 3, 16, 32, 32)
    gradients = {}
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            logits = model(x)
        nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
        gradients[low] = {name: value.grad for name, value in model.named_parameters()}
    for name, gradient in gradients[False].items():
        low = gradients[True][name]
        assert low.isfinite().all(), name
        assert nn.functional.cosine_similarity(low.flatten(), gradient.flatten(), 0) > 0.95, name


# --- what was published -----------------------------------------------------------------------------------------------

# millions of parameters; frames and side; billions of multiply-adds
PUBLISHED = {
    "slowfast_r50": (34.6, (32, 256), 65.7),
    "slowfast_r101": (62.8, (32, 256), 125.9),
    "slow_r50": (32.45, (8, 256), 54.52),
    "x3d_s": (3.8, (13, 160), 1.96),
    "x3d_m": (3.8, (16, 224), 4.73),
    "x3d_l": (6.2, (16, 312), 18.37),
    "mvit_base_16x4": (36.6, (16, 224), 70.6),
    "mvit_base_32x3": (36.6, (32, 224), 170.0),
    "mvit_v1_b": (36.61, (16, 224), 70.6),
    "mvit_v2_s": (34.54, (16, 224), 64.2),
    "r3d_18": (33.4, (16, 112), 40.7),
    "mc3_18": (11.7, (16, 112), 43.34),
    "r2plus1d_18": (31.5, (16, 112), 40.5),
    "s3d": (8.32, (16, 224), 17.98),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(name: str) -> None:
    millions, (frames, side), gmacs = PUBLISHED[name]
    with torch.device("meta"):
        model = create_model(name)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, rel=0.01)
    assert count_gmacs(model, (3, frames, side, side)) == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize("name", TORCHVISION_VIDEO)
def test_our_figures_of_torchvisions_weights_are_torchvisions(name: str) -> None:
    weights = get_model_weights(name).KINETICS400_V1
    how, said = weights.transforms(), MODELS[name]
    assert isinstance(said, Variant) and said.published is not None
    assert said.published.top1 == weights.meta["_metrics"]["Kinetics-400"]["acc@1"]
    assert said.published.normalisation == Normalisation(tuple(how.mean), tuple(how.std))
    assert (said.config.height, said.config.width) == (*how.crop_size,)[:1] * 2
    assert said.published.short_side == how.resize_size[0]
    assert f"`frame_rate={1 / said.published.clip.interval:g}`" in weights.meta["_docs"]
    assert f"`clips_per_video={said.published.views.clips}`" in weights.meta["_docs"]
    assert f"`clip_len={said.published.clip.frames}`" in weights.meta["_docs"]


# --- the library is an extra ------------------------------------------------------------------------------------------


def test_without_pytorchvideo_its_models_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorchvideo.models.resnet", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'hybridvideo\[pytorchvideo\]'"):
        create_model("slow_r50")


@pytest.mark.parametrize("name", ["slow_r50", "x3d_m", "slowfast_r50", "r3d_18"])
def test_a_model_can_be_handed_to_another_process(name: str) -> None:
    model, x = small(name).eval(), torch.randn(1, 3, 4, 64, 64)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
