"""What a stem sees of a clip besides its frames: the correlation with frames nearby."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hybridvideo.config.model import InputConfig
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.inputs import ClipInput

MODES = ["correlation", "correlation_stream"]


def hybrid(stem: dict[str, Any], side: int = 64, **input: Any) -> Hybrid:
    torch.manual_seed(0)
    model = create_model("hybrid", 3, frames=4, height=side, width=side, stem=stem, input=input)
    assert isinstance(model, Hybrid)
    return model.eval()


def test_correlation_keeps_the_number_of_frames_and_adds_four_maps_for_each_lag_and_scale() -> None:
    x = torch.randn(2, 3, 4, 9, 7)
    (seen,) = ClipInput(InputConfig("correlation", radius=1, lags=(1, 2), scales=(1,)))(x)
    assert seen.shape == (2, 3 + 8, 4, 9, 7) and torch.equal(seen[:, :3], x)
    (seen,) = ClipInput(InputConfig("correlation", radius=1, scales=(1, 2)))(x)
    assert seen.shape == (2, 3 + 8, 4, 9, 7)
    coarse = seen[:, 7:]
    assert torch.equal(coarse[..., 0::2, 0::2][..., :4, :3], coarse[..., 1::2, 1::2])
    frames, maps = ClipInput(InputConfig("correlation_stream", radius=1, scales=(2, 4)))(x)
    assert torch.equal(frames, x) and maps.shape == (2, 8, 4, 5, 4)


def test_a_stride_that_does_not_fit_the_scales_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"input\.stride is 3 with scales \[1, 2\]; give a multiple or a divisor of each"
    ):
        create_model("hybrid_micro", 3, input={"mode": "correlation", "scales": [1, 2], "stride": 3})


@pytest.mark.parametrize("scales", [[2, 3], [0]])
def test_scales_that_do_not_fit_are_refused(scales: list[int]) -> None:
    with pytest.raises(UserError, match=r"input\.scales is"):
        create_model("hybrid_micro", 3, input={"mode": "correlation", "scales": scales})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "stem",
    [
        {"name": "timm/resnet18", "stride": 16},
        {"name": "timm/levit_128s", "stride": 16},
        {"name": "torchvision/mobilenet_v2", "stride": 32},
        {"name": "timm/vit_tiny_patch16_224", "stride": 16},
    ],
)
@torch.no_grad()
def test_a_library_stem_starts_as_without_correlation(mode: str, stem: dict[str, Any]) -> None:
    model, plain = hybrid(stem, mode=mode), hybrid(stem)
    own = plain.state_dict()
    for name, value in model.state_dict().items():
        if name in own and name.startswith("stem"):
            value.narrow(1, 0, own[name].shape[1]).copy_(own[name]) if value.ndim == 4 else value.copy_(own[name])
    x = torch.randn(1, 3, 3, 64, 64)
    assert torch.allclose(model.forward_stem(x), plain.forward_stem(x), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_correlation_reaches_the_stem_and_is_trained(mode: str) -> None:
    model = hybrid({"name": "timm/resnet18", "stride": 8}, mode=mode)
    x = torch.randn(2, 3, 3, 50, 35)  # divides by nothing
    torch.optim.SGD(model.parameters(), 0.1).step(lambda: model(x).square().sum().backward())  # type: ignore[arg-type]
    torch.nn.init.normal_(model.head.classifier.weight)
    still = x[:, :, :1].expand(-1, -1, 3, -1, -1)
    before = model.stem([clip for clip in model.input(x)])[:, 0]
    after = model.stem([clip for clip in model.input(still)])[:, 0]
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("mode", MODES)
def test_a_stem_of_our_own_sees_the_motion_from_the_start(mode: str) -> None:
    model = hybrid({"widths": [8, 16]}, mode=mode)
    x = torch.randn(1, 3, 2, 33, 30)
    other = torch.stack([x[:, :, 0], x[:, :, 0]], 2)
    assert not torch.allclose(model.forward_stem(x)[:, 0], model.forward_stem(other)[:, 0], atol=1e-2)


def test_what_cannot_be_built_is_refused_in_one_line() -> None:
    for stem, input, said in [
        ({}, {"lags": [0]}, r"input\.lags is \[0\]; give frames ahead"),
        ({}, {"box": 4}, r"input\.box is 4; give an odd number"),
        ({"frozen": True}, {}, r"needs a stem that is trained; set stem\.frozen false"),
        ({"name": "timm/csatv2", "stride": 16}, {}, "a convolution of 3 channels; use correlation_stream"),
    ]:
        with pytest.raises(UserError, match=said):
            hybrid(stem, **{"mode": "correlation", **input})  # type: ignore[arg-type]
