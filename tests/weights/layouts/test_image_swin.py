"""2-D Swin weights make a Video Swin that sees a still clip as the image network sees its frame."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torchvision.models import SwinTransformer

from hybridvideo.models import create_model
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.load_weights import load_weights

DIM, DEPTHS, HEADS, WINDOW, SIZE, CLASSES = 24, (2, 2, 2, 1), (3, 6, 12, 24), 4, 128, 5


def of_torchvision() -> nn.Module:
    return SwinTransformer([4, 4], DIM, list(DEPTHS), list(HEADS), [WINDOW, WINDOW], num_classes=CLASSES)


def of_timm() -> nn.Module:
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=SIZE, window_size=WINDOW, embed_dim=DIM, depths=DEPTHS,
        num_heads=HEADS, num_classes=CLASSES,
    )  # fmt: skip


def of_the_authors() -> dict[str, torch.Tensor]:
    """The authors' names differ from timm's in the place of the mergings and in the head."""
    state = {}
    for key, value in randomised(of_timm()).state_dict().items():
        for stage in (1, 2, 3):
            if key.startswith(f"layers.{stage}.downsample"):
                key = key.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")
                break
        state[key.replace("head.fc", "head")] = value
    return state


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=1.0 if "table" in name else 0.1)
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1
    return model.eval()


@pytest.mark.parametrize("build", [of_torchvision, of_timm])
def test_a_still_clip_is_seen_as_its_frame(build: Callable[[], nn.Module]) -> None:
    image_model = randomised(build())
    model = create_model("video_swin_tiny", CLASSES, dim=DIM, depths=DEPTHS, window=(3, WINDOW, WINDOW)).eval()
    report = load_weights(model, image_model.state_dict())
    assert report.inflated == ["patches.weight"] and len(report.resized) == sum(DEPTHS)
    frame = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = image_model(frame)
        logits = model(frame[:, :, None].expand(-1, -1, 12, -1, -1))
    assert expected.std() > 0.1 and (logits - expected).abs().max() < 1e-4


def test_the_authors_names_hold_the_same_tensors_as_timms() -> None:
    models = [create_model("video_swin_tiny", CLASSES, dim=DIM, depths=DEPTHS, window=(3, 4, 4)) for _ in range(2)]
    reports = [load_weights(models[0], of_the_authors()), load_weights(models[1], randomised(of_timm()).state_dict())]
    assert [report.layout for report in reports] == ["2-D Swin (its authors)", "2-D Swin (timm)"]
    for one, other in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "state", [lambda: of_torchvision().state_dict(), lambda: of_timm().state_dict(), of_the_authors]
)
def test_tensors_come_back_and_tell_the_architecture(state: Callable[[], dict[str, torch.Tensor]]) -> None:
    theirs = state()
    (layout,) = [layout for layout in LAYOUTS if layout.fits(theirs)]
    name, changes = layout.architecture(theirs)
    assert name == "video_swin_tiny" and changes["depths"] == DEPTHS and changes["window"] == (8, WINDOW, WINDOW)
    back = layout.to_theirs(layout.to_ours(theirs))
    kept = {key for key in theirs if not key.endswith(("attn_mask", "relative_position_index"))}
    assert kept <= back.keys() and all(torch.equal(back[key], theirs[key]) for key in kept)
