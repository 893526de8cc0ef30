"""The tables of the two TimeSformer layouts: every key they have, both ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import TimesformerConfig, TimesformerForVideoClassification

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.layouts.layout import Layout
from hybridvideo.weights.layouts.timesformer import TIMESFORMER, TIMESFORMER_HUGGING_FACE
from hybridvideo.weights.load_weights import load_weights

DIM, DEPTH, FRAMES, SIDE = 64, 2, 5, 3


def linear(name: str, out: int, inside: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (DIM,), f"{name}.bias": (DIM,)}


def attention(name: str) -> dict[str, tuple[int, ...]]:
    return linear(f"{name}.qkv", 3 * DIM, DIM) | linear(f"{name}.proj", DIM, DIM)


def authors_state(kind: str) -> dict[str, Tensor]:
    """Every key and shape of the authors' files, with random values."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, DIM), "pos_embed": (1, 1 + SIDE**2, DIM)}
    shapes |= {"time_embed": (1, FRAMES, DIM)} if kind != "space" else {}
    shapes |= {"patch_embed.proj.weight": (DIM, 3, 16, 16), "patch_embed.proj.bias": (DIM,)}
    for i in range(DEPTH):
        block = f"blocks.{i}"
        shapes |= norm(f"{block}.norm1") | attention(f"{block}.attn") | norm(f"{block}.norm2")
        shapes |= linear(f"{block}.mlp.fc1", 4 * DIM, DIM) | linear(f"{block}.mlp.fc2", DIM, 4 * DIM)
        if kind == "divided":
            shapes |= norm(f"{block}.temporal_norm1") | attention(f"{block}.temporal_attn")
            shapes |= linear(f"{block}.temporal_fc", DIM, DIM)
    shapes |= norm("norm") | linear("head", 7, DIM)
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def hugging_face_state(kind: str) -> dict[str, Tensor]:
    config = TimesformerConfig(
        image_size=16 * SIDE, num_frames=FRAMES, hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=1,
        intermediate_size=4 * DIM, attention_type=f"{kind}_space_time", num_labels=7,
    )  # fmt: skip
    return {
        name: torch.randn_like(value) for name, value in TimesformerForVideoClassification(config).state_dict().items()
    }


def layout_of(state: dict[str, Tensor]) -> Layout:
    return next(layout for layout in LAYOUTS if layout.fits(state) and layout.family == "TimeSformer")


STATES = [
    (TIMESFORMER, authors_state("divided")),
    (TIMESFORMER, authors_state("joint")),
    (TIMESFORMER_HUGGING_FACE, hugging_face_state("divided")),
    (TIMESFORMER_HUGGING_FACE, hugging_face_state("joint")),
]


@pytest.mark.parametrize(("layout", "state"), STATES)
def test_every_tensor_finds_its_place_and_the_way_back(layout: Layout, state: dict[str, Tensor]) -> None:
    assert layout_of(state) is layout
    name, changes = layout.architecture(state)
    model = create_model(name, 7, **changes)
    model.load_state_dict(layout.to_ours(state))
    back = layout.to_theirs(model.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("kind", ["divided", "joint", "space"])
def test_the_authors_attention_and_sizes_are_read_off_the_tensors(kind: str) -> None:
    state = authors_state(kind)
    name, changes = layout_of(state).architecture(state)
    config = create_model(name, 7, **changes).settings()
    assert name == "timesformer_base" and config["attention"] == kind
    assert (config["height"], config["width"], config["dim"], config["depth"]) == (48, 48, 64, 2)
    assert config["frames"] == (8 if kind == "space" else 5)


@pytest.mark.parametrize("name", ["timesformer_base", "timesformer_hr", "timesformer_large"])
@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_a_published_file_is_known_by_the_name_of_its_variant(name: str, attention: str) -> None:
    with torch.device("meta"):
        model = create_model(name, attention=attention)
    for layout in (TIMESFORMER, TIMESFORMER_HUGGING_FACE):
        state = layout.to_theirs(model.state_dict())
        assert layout.architecture(state) == (name, {} if attention == "divided" else {"attention": "joint"})
    assert len(TIMESFORMER.to_theirs(model.state_dict())) == (249 if attention == "divided" else 153)


def test_positions_keep_their_places() -> None:
    state = authors_state("divided")
    ours = TIMESFORMER.to_ours(state)
    assert torch.equal(ours["class_position"], state["pos_embed"][0, 0])
    assert torch.equal(ours["position.space_CHW"][:, 1, 2], state["pos_embed"][0, 1 + 1 * SIDE + 2])
    assert torch.equal(ours["position.time_CT"][:, 4], state["time_embed"][0, 4])


def test_a_file_of_the_authors_loads_whole_at_another_size() -> None:
    state = {f"model.{key}": value for key, value in authors_state("divided").items()}
    model = create_model("timesformer_base", 7, dim=64, depth=2, heads=1, frames=8, height=64, width=32)
    report = load_weights(model, state)
    assert sorted(report.resized) == ["position.space_CHW", "position.time_CT"]
    assert not report.missing and not report.unexpected


def test_weights_of_attention_within_frames_fit_their_own_model() -> None:
    state = authors_state("space")
    model = create_model("timesformer_base", 7, dim=64, depth=2, heads=1, height=48, width=48, attention="space")
    report = load_weights(model, state)
    assert len(report.matched) == len(state) + 1  # the position table is two tensors here


def test_a_table_that_is_no_square_is_refused() -> None:
    state = authors_state("divided") | {"pos_embed": torch.zeros(1, 8, DIM)}
    with pytest.raises(UserError, match="7 places, which make no square"):
        TIMESFORMER.to_ours(state)
