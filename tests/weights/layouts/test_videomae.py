"""VideoMAE weights of its authors and of Hugging Face: every documented key, both ways, into every model they fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import VideoMAEConfig as TheirConfig
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification

from hybridvideo.errors import UserError
from hybridvideo.models import create_model, create_pretraining
from hybridvideo.models.published.videomae import sinusoids
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.layouts.layout import Layout, State
from hybridvideo.weights.load_weights import load_weights

CLASSES = 5
SMALL = {"dim": 24, "depth": 2, "heads": 2}
DECODER = {"decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2}
Shapes = dict[str, tuple[int, ...]]


def authors_block(start: str, dim: int) -> Shapes:
    return {
        f"{start}norm1.weight": (dim,), f"{start}norm1.bias": (dim,),
        f"{start}attn.q_bias": (dim,), f"{start}attn.v_bias": (dim,),
        f"{start}attn.qkv.weight": (3 * dim, dim),
        f"{start}attn.proj.weight": (dim, dim), f"{start}attn.proj.bias": (dim,),
        f"{start}norm2.weight": (dim,), f"{start}norm2.bias": (dim,),
        f"{start}mlp.fc1.weight": (4 * dim, dim), f"{start}mlp.fc1.bias": (4 * dim,),
        f"{start}mlp.fc2.weight": (dim, 4 * dim), f"{start}mlp.fc2.bias": (dim,),
    }  # fmt: skip


def authors_fine_tuned(dim: int = 24, depth: int = 2, classes: int = CLASSES) -> Shapes:
    shapes: Shapes = {"patch_embed.proj.weight": (dim, 3, 2, 16, 16), "patch_embed.proj.bias": (dim,)}
    for i in range(depth):
        shapes |= authors_block(f"blocks.{i}.", dim)
    norm: Shapes = {"fc_norm.weight": (dim,), "fc_norm.bias": (dim,)}
    return {**shapes, **norm, "head.weight": (classes, dim), "head.bias": (classes,)}


def authors_pretrained(dim: int = 24, depth: int = 2, decoder_dim: int = 12, decoder_depth: int = 1) -> Shapes:
    shapes: Shapes = {"mask_token": (1, 1, decoder_dim), "encoder_to_decoder.weight": (decoder_dim, dim)}
    shapes |= {"encoder.patch_embed.proj.weight": (dim, 3, 2, 16, 16), "encoder.patch_embed.proj.bias": (dim,)}
    shapes |= {"encoder.norm.weight": (dim,), "encoder.norm.bias": (dim,)}
    shapes |= {"decoder.norm.weight": (decoder_dim,), "decoder.norm.bias": (decoder_dim,)}
    shapes |= {"decoder.head.weight": (1536, decoder_dim), "decoder.head.bias": (1536,)}
    for i in range(depth):
        shapes |= authors_block(f"encoder.blocks.{i}.", dim)
    for i in range(decoder_depth):
        shapes |= authors_block(f"decoder.blocks.{i}.", decoder_dim)
    return shapes


def hub_block(start: str, dim: int, biases: tuple[str, str]) -> Shapes:
    attention = f"{start}attention.attention."
    return {
        f"{start}layernorm_before.weight": (dim,), f"{start}layernorm_before.bias": (dim,),
        f"{attention}{biases[0]}": (dim,), f"{attention}{biases[1]}": (dim,),
        f"{attention}query.weight": (dim, dim), f"{attention}key.weight": (dim, dim),
        f"{attention}value.weight": (dim, dim),
        f"{start}attention.output.dense.weight": (dim, dim), f"{start}attention.output.dense.bias": (dim,),
        f"{start}layernorm_after.weight": (dim,), f"{start}layernorm_after.bias": (dim,),
        f"{start}intermediate.dense.weight": (4 * dim, dim), f"{start}intermediate.dense.bias": (4 * dim,),
        f"{start}output.dense.weight": (dim, 4 * dim), f"{start}output.dense.bias": (dim,),
    }  # fmt: skip


HUB, MEMORY = ("q_bias", "v_bias"), ("query.bias", "value.bias")


def hub_encoder(biases: tuple[str, str]) -> Shapes:
    projection = "videomae.embeddings.patch_embeddings.projection"
    shapes: Shapes = {f"{projection}.weight": (24, 3, 2, 16, 16), f"{projection}.bias": (24,)}
    for i in range(2):
        shapes |= hub_block(f"videomae.encoder.layer.{i}.", 24, biases)
    return shapes


def hub_fine_tuned(biases: tuple[str, str] = HUB) -> Shapes:
    norm: Shapes = {"fc_norm.weight": (24,), "fc_norm.bias": (24,)}
    return {**hub_encoder(biases), **norm, "classifier.weight": (CLASSES, 24), "classifier.bias": (CLASSES,)}


def hub_pretrained(biases: tuple[str, str] = HUB) -> Shapes:
    shapes: Shapes = {"mask_token": (1, 1, 12), "encoder_to_decoder.weight": (12, 24)}
    shapes |= {"videomae.layernorm.weight": (24,), "videomae.layernorm.bias": (24,)}
    shapes |= {"decoder.norm.weight": (12,), "decoder.norm.bias": (12,)}
    shapes |= {"decoder.head.weight": (1536, 12), "decoder.head.bias": (1536,)}
    return {**hub_encoder(biases), **hub_block("decoder.decoder_layers.0.", 12, biases), **shapes}


def filled(shapes: Shapes) -> State:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def layout_for(state: State, family: str) -> Layout:
    fitting = [layout for layout in LAYOUTS if layout.family == family and layout.fits(state)]
    assert len(fitting) == 1
    return fitting[0]


def classifier() -> Any:
    return create_model("videomae_base", CLASSES, frames=4, image_size=32, **SMALL).eval()


def pretraining() -> Any:
    return create_pretraining("videomae_base", frames=4, image_size=32, **SMALL, **DECODER).eval()


FINE_TUNED = {"authors": authors_fine_tuned(), "hub": hub_fine_tuned(), "in memory": hub_fine_tuned(MEMORY)}
PRETRAINED = {"authors": authors_pretrained(), "hub": hub_pretrained(), "in memory": hub_pretrained(MEMORY)}


@pytest.mark.parametrize("shapes", FINE_TUNED.values(), ids=FINE_TUNED)
def test_every_tensor_of_a_classifier_goes_both_ways(shapes: Shapes) -> None:
    state = filled(shapes)
    model = classifier()
    report = load_weights(model, state)
    assert len(report.matched) == len(model.state_dict()) and not report.left_out
    same(layout_for(state, "VideoMAE").to_theirs(model.state_dict()), state)


@pytest.mark.parametrize("shapes", PRETRAINED.values(), ids=PRETRAINED)
def test_every_tensor_of_pretraining_goes_both_ways(shapes: Shapes) -> None:
    state = filled(shapes)
    model = pretraining()
    report = load_weights(model, state)
    assert len(report.matched) == len(model.state_dict()) and not report.left_out
    same(layout_for(state, "VideoMAEPretraining").to_theirs(model.state_dict()), state)


def same(got: State, expected: State) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", PRETRAINED)
def test_a_classifier_takes_the_encoder_of_pretrained_weights(kind: str) -> None:
    state = filled(PRETRAINED[kind])
    model, whole = classifier(), pretraining()
    head = model.classifier.weight.clone()
    report = load_weights(model, state, head="replace")
    load_weights(whole, state)
    for name, tensor in whole.encoder.state_dict().items():
        if not name.startswith("norm."):
            assert torch.equal(model.state_dict()[name], tensor), name
    assert torch.equal(model.norm.weight, torch.ones(24)) and torch.equal(model.norm.bias, torch.zeros(24))
    assert torch.equal(model.classifier.weight, head)
    assert set(report.filled) == {"norm.weight", "norm.bias"}
    assert all("decoder" in name or "norm." in name or name == "mask_token" for name in report.left_out)
    with pytest.raises(UserError, match="has no classifier"):
        load_weights(classifier(), state)


def test_a_classifier_takes_the_encoder_of_our_own_pretraining() -> None:
    torch.manual_seed(0)
    whole, model = pretraining(), classifier()
    report = load_weights(model, whole.state_dict(), head="replace")
    assert "this project" in report.layout
    assert torch.equal(model.blocks[1].attention.qkv.weight, whole.encoder.blocks[1].attention.qkv.weight)
    assert torch.equal(model.patches.weight, whole.encoder.patches.weight)
    assert {name for name in whole.state_dict() if not name.startswith(("encoder.blocks", "encoder.patches"))} == set(
        report.left_out
    )


def test_keys_get_a_zero_bias_and_lose_a_trained_one() -> None:
    state = filled(authors_fine_tuned())
    layout = layout_for(state, "VideoMAE")
    ours = layout.to_ours(state)
    bias = ours["blocks.1.attention.qkv.bias"]
    assert torch.equal(bias[24:48], torch.zeros(24))
    assert torch.equal(bias[:24], state["blocks.1.attn.q_bias"])
    assert torch.equal(bias[48:], state["blocks.1.attn.v_bias"])
    bias[24:48] = 1
    same(layout.to_theirs(ours), state)


def test_logits_and_reconstructions_of_transformers_models_are_kept() -> None:
    torch.manual_seed(0)
    config = TheirConfig(
        num_frames=4, image_size=32, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
        decoder_hidden_size=12, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=48, num_labels=CLASSES, initializer_range=0.5,
    )  # fmt: skip
    x, mask = torch.randn(2, 3, 4, 32, 32), torch.tensor([[True, False, True, True] * 2] * 2)
    theirs, model = VideoMAEForVideoClassification(config).eval(), classifier()
    load_weights(model, theirs.state_dict())
    assert (model(x) - theirs(x.transpose(1, 2)).logits).abs().max() <= 1e-4
    config.use_mean_pooling = False
    pretrained, whole = VideoMAEForPreTraining(config).eval(), pretraining()
    load_weights(whole, as_on_the_hub(pretrained.state_dict()))
    expected = pretrained(x.transpose(1, 2), bool_masked_pos=mask).logits
    assert (whole(x, mask) - expected).abs().max() <= 1e-4


def as_on_the_hub(state: State) -> State:
    """The names that files on the hub have for what transformers 5 calls otherwise in memory."""
    return {
        name.replace("attention.query.bias", "attention.q_bias").replace(
            "attention.value.bias", "attention.v_bias"
        ): value
        for name, value in state.items()
    }


def on_meta(shapes: Shapes) -> State:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize(("name", "dim", "depth"), [("small", 384, 12), ("base", 768, 12), ("large", 1024, 24)])
def test_published_sizes_are_told_from_the_tensors(name: str, dim: int, depth: int) -> None:
    state = on_meta(authors_fine_tuned(dim, depth, 400))
    layout = layout_for(state, "VideoMAE")
    assert layout.architecture(state) == (f"videomae_{name}", {})
    with torch.device("meta"):
        own = create_model(f"videomae_{name}").state_dict()
    ours = layout.to_ours(state)
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in own.items()}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("small", (384, 12, 192, 4)),
        ("base", (768, 12, 384, 4)),
        ("large", (1024, 24, 512, 12)),
        ("huge", (1280, 32, 640, 12)),
    ],
)
def test_published_decoders_are_told_from_the_tensors(name: str, sizes: tuple[int, int, int, int]) -> None:
    state = on_meta(authors_pretrained(*sizes))
    assert layout_for(state, "VideoMAEPretraining").architecture(state) == (f"videomae_{name}", {})
    assert layout_for(state, "VideoMAE").architecture(state) == (f"videomae_{name}", {})
    with torch.device("meta"):
        own = create_pretraining(f"videomae_{name}").state_dict()
    ours = layout_for(state, "VideoMAEPretraining").to_ours(state)
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in own.items()}


@pytest.mark.parametrize("shapes", [*FINE_TUNED.values(), *PRETRAINED.values()])
def test_other_sizes_are_changes_of_the_base(shapes: Shapes) -> None:
    state = filled(shapes)
    name, changes = layout_for(state, "VideoMAE").architecture(state)
    assert (name, changes) == ("videomae_base", {"dim": 24, "depth": 2, "heads": 1})


def test_learned_positions_are_refused_and_the_fixed_ones_left_out() -> None:
    state = filled(authors_fine_tuned())
    state["pos_embed"] = sinusoids((2, 2, 2), 24).flatten(0, 2)[None]
    load_weights(classifier(), state)
    state["pos_embed"] = torch.randn(1, 8, 24)
    with pytest.raises(UserError, match="pos_embed is a learned table"):
        load_weights(classifier(), state)


@pytest.mark.parametrize("kind", [*FINE_TUNED])
def test_an_incomplete_checkpoint_is_named(kind: str) -> None:
    state = filled(FINE_TUNED[kind])
    gone = next(name for name in state if name.endswith(("v_bias", "value.bias")))
    del state[gone]
    with pytest.raises(UserError, match=f"lacks '{gone}'"):
        load_weights(classifier(), state)


def test_weights_of_another_width_say_what_they_belong_to() -> None:
    state: dict[str, Tensor] = filled(authors_fine_tuned())
    model = create_model("videomae_base", CLASSES, frames=4, image_size=32, dim=48, depth=2, heads=2)
    with pytest.raises(UserError, match="create_model\\('videomae_base', dim=24, depth=2, heads=1\\)"):
        load_weights(model, state)
