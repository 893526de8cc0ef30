"""What holds for every foreign layout: it is recognised, and a damaged state dict is one line, never a crash."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.layouts.layout import Layout
from hybridvideo.weights.load_weights import load_weights
from hybridvideo.weights.recognise import is_own
from tests.models.small import FEWER, small

KEYS = 4  # of each layout that are damaged


@cache
def models() -> list[VideoModel]:
    return [small(name, num_classes=3) for name in FEWER]


@cache
def example(layout: Layout) -> tuple[VideoModel, dict[str, Tensor]] | None:
    """A small model, and its weights under the names of a layout; None where its models cannot give them all."""
    for model in models():
        if type(model).__name__ != layout.family:
            continue
        try:
            state = layout.to_theirs(model.state_dict())
        except (KeyError, UserError):  # another model of the family has what it needs
            continue
        if layout.fits(state) and not is_own(state, model.state_dict()):
            return model, state
    return None


def gives_whole_models(layout: Layout) -> bool:
    """Weights of images and of pretraining lack what a video classifier has; S3D has no small form."""
    partial = "pretrained" in layout.name or "2-D" in layout.name or layout.family == "S3D"
    return not partial and not (layout.family in ("VideoMAE", "Hybrid") and "image" in layout.name)


WHOLE = [layout for layout in LAYOUTS if gives_whole_models(layout)]


@pytest.fixture(params=WHOLE, ids=lambda layout: f"{layout.name}, {layout.family}")
def layout(request: pytest.FixtureRequest) -> Layout:
    assert isinstance(request.param, Layout)
    return request.param


def damaged(state: dict[str, Tensor], key: str) -> Iterator[dict[str, Tensor]]:
    """Without a tensor, or with it in shapes that nobody expects."""
    yield {name: value for name, value in state.items() if name != key}
    for odd in (torch.ones(()), torch.ones(0), torch.ones(2, 3, 4, 5, 6)):
        yield {**state, key: odd}


def test_it_is_recognised_by_its_keys(layout: Layout) -> None:
    model, state = example(layout) or pytest.fail("no example")
    for prefix in ("", "module."):
        report = load_weights(model, {prefix + key: value for key, value in state.items()}, head="replace")
        assert report.layout == layout.name and not (report.missing or report.unexpected)


def test_a_damaged_state_dict_is_one_line(layout: Layout) -> None:
    model, state = example(layout) or pytest.fail("no example")
    for key in list(state)[:: max(1, len(state) // KEYS)]:
        for broken in damaged(state, key):
            try:
                load_weights(model, broken)  # some tensors are recomputed here, so nothing is wrong without them
            except UserError as error:
                assert "\n" not in str(error)
