"""TimeSformer against Hugging Face's with random weights, and what the authors' differs from it in."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import TimesformerConfig, TimesformerForVideoClassification

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import Grids, count_gmacs, count_parameters
from hybridvideo.models.published.timesformer import TimeSformer, TimeSformerConfig
from hybridvideo.weights.layouts.timesformer import TIMESFORMER_HUGGING_FACE

SMALL = {"dim": 64, "depth": 3, "heads": 4, "patch": 8, "height": 32, "width": 32, "frames": 4}


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """All parameters, so that nothing that starts at zero hides a fault."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 0.2 if value.ndim > 1 else 0.3
            value.copy_(torch.randn(value.shape, generator=generator) * scale + ("norm.weight" in name))


def small(attention: str, seed: int = 0, **changes: object) -> TimeSformer:
    model = create_model("timesformer_base", 5, **{**SMALL, "attention": attention, **changes})
    assert isinstance(model, TimeSformer)
    randomise(model, seed)
    return model.eval()


def peer(attention: str, frames: int = 4, size: int = 32) -> TimesformerForVideoClassification:
    config = TimesformerConfig(
        image_size=size,
        patch_size=8,
        num_frames=frames,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        attention_type=f"{attention}_space_time",
        num_labels=5,
    )
    model = TimesformerForVideoClassification(config)
    randomise(model)
    return model.eval()


def of_peer(model: TimesformerForVideoClassification) -> TimeSformer:
    name, changes = TIMESFORMER_HUGGING_FACE.architecture(model.state_dict())
    ours = create_model(name, 5, **{**changes, "heads": 4})
    ours.load_state_dict(TIMESFORMER_HUGGING_FACE.to_ours(model.state_dict()))
    assert isinstance(ours, TimeSformer)
    return ours.eval()


@pytest.mark.parametrize("attention", ["divided", "joint"])
@pytest.mark.parametrize(("frames", "size"), [(4, 32), (20, 40)])
def test_logits_and_grids_are_the_peers(attention: str, frames: int, size: int) -> None:
    theirs = peer(attention, frames, size)
    ours = of_peer(theirs)
    x = torch.randn(2, 3, frames, size, size)
    with torch.no_grad():
        out = theirs(x.transpose(1, 2), output_hidden_states=True)
        assert (ours(x) - out.logits).abs().max() < 1e-4
        for name, states in zip(["block1", "block3"], [out.hidden_states[1], out.hidden_states[3]], strict=True):
            grid = states[:, 1:].unflatten(1, (size // 8, size // 8, frames)).permute(0, 3, 1, 2, 4)
            assert (ours.forward_intermediates(x, [name])[0] - grid).abs().max() < 1e-4


@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_a_clip_that_is_not_a_square_gives_the_peers_logits_with_the_peers_position_table(attention: str) -> None:
    theirs = peer(attention, 6, 112)
    ours = of_peer(theirs)
    with torch.no_grad():
        nearest = torch.nn.functional.interpolate(ours.position.space_CHW[None], (14, 12), mode="nearest")[0]
    ours.position.space_CHW = torch.nn.Parameter(nearest)  # theirs is resized so, ours bicubic
    x = torch.randn(1, 3, 6, 112, 96)
    with torch.no_grad():
        assert (ours(x) - theirs(x.transpose(1, 2)).logits).abs().max() < 1e-4


@pytest.mark.parametrize("attention", ["divided", "joint"])
def test_gradients_are_the_peers(attention: str) -> None:
    theirs = peer(attention)
    ours = of_peer(theirs)
    x = torch.randn(6, 3, 4, 32, 32)  # enough places for temporal attention's two layers to be joined
    ours(x).square().sum().backward()
    theirs(x.transpose(1, 2)).logits.square().sum().backward()
    expected = {name: value.grad for name, value in theirs.named_parameters()}
    for name, grad in TIMESFORMER_HUGGING_FACE.to_ours(expected).items():
        own = ours.get_parameter(name).grad
        assert own is not None and torch.allclose(own, grad, rtol=1e-3, atol=1e-4 * float(grad.abs().max())), name


def test_space_alone_is_the_mean_of_the_frames_as_images() -> None:
    model = small("space")
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        tokens = torch.stack([last_class_token(model, clip[:, :, [t]]) for t in range(4)]).mean(0)
        assert torch.allclose(model(clip), model.classifier(model.norm(tokens)), atol=1e-5)
        assert torch.allclose(model(clip), model(clip.flip(2)), atol=1e-5)


def last_class_token(model: TimeSformer, frame: torch.Tensor) -> torch.Tensor:
    """Before the last norm."""
    seen: list[torch.Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(frame)
    hook.remove()
    return seen[0][:, 0, 0, 0]


@pytest.mark.parametrize("attention", ["divided", "joint", "space"])
def test_the_last_block_gives_the_same_class_token_with_and_without_its_places(attention: str) -> None:
    model = small(attention)
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        full = model.forward_stages(model.forward_stem(x), Grids(model.stage_names))
        assert torch.allclose(model.forward_features(x), full, atol=1e-5)


def test_an_optimizer_step_is_seen_by_the_joined_layers_of_temporal_attention() -> None:
    model = small("divided")
    x = torch.randn(6, 3, 4, 32, 32)
    with torch.no_grad():
        before = model(x)
        model.blocks[0].temporal.proj.weight.mul_(3)
        after = model(x)
    expected = model(x)  # with gradients nothing is kept
    assert not torch.allclose(before, after, atol=1e-3) and torch.allclose(after, expected, atol=1e-5)
    assert copy.deepcopy(model).blocks[0].temporal.composition.cached.entry is None


def test_stochastic_depth_leaves_the_bias_after_temporal_attention() -> None:
    model = small("divided", drop_path=1.0 - 1e-6, depth=2).train()
    temporal = model.blocks[1].temporal
    for places in (4, 64):  # with and without the two layers joined
        out = temporal(torch.randn(2, 4, places, 64))
        assert torch.allclose(out, temporal.linear.bias.expand_as(out))


def test_stochastic_depth_drops_places_in_time_frames_in_space_and_clips_in_the_mlp() -> None:
    model = small("divided", drop_path=0.5, depth=2)
    block = model.blocks[1].train()
    kept: list[tuple[int, ...]] = []
    for drop in (block.temporal.drop, block.drop):
        drop.register_forward_hook(lambda _m, inputs, _out: kept.append(tuple(inputs[0].shape[i] for i in inputs[1:])))
    block(torch.randn(2, 4, 16, 64), torch.randn(2, 1, 1, 64))
    assert kept == [(2, 16), (2, 4), (2,)]


def test_a_bf16_training_step_is_near_that_in_fp32() -> None:
    model = small("divided", frames=20, drop_path=0.0).train()
    x = torch.randn(1, 3, 20, 32, 32)
    exact = torch.autograd.grad(model(x).square().mean(), model.embed.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().square().mean()
    rough = torch.autograd.grad(loss, model.embed.weight)[0]
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), 0) > 0.98


def test_fresh_blocks_but_the_first_add_nothing_in_time() -> None:
    torch.manual_seed(0)
    model = create_model("timesformer_base", 5, **SMALL)
    assert isinstance(model, TimeSformer) and model.position.time_CT is not None
    linears = [block.temporal.linear for block in model.blocks]
    assert linears[0].weight.std() > 0.01 and not any(linear.weight.any() for linear in linears[1:])
    assert not model.position.time_CT.any()


@pytest.mark.parametrize("attention", ["divided", "joint", "space"])
def test_clips_of_other_lengths_and_sizes_are_taken_as_they_come(attention: str) -> None:
    model = small(attention)
    with torch.no_grad():
        for shape in ((1, 3, 4, 32, 32), (1, 3, 7, 24, 40), (1, 3, 1, 8, 16), (2, 3, 20, 40, 16)):
            assert model(torch.randn(shape)).isfinite().all()
    with pytest.raises(UserError, match="33x32 does not divide"):
        model(torch.randn(1, 3, 4, 33, 32))


def test_what_cannot_be_built_is_reported() -> None:
    for changes, message in (({"heads": 5}, "do not divide into 5 heads"), ({"height": 30}, "height is 30")):
        with pytest.raises(UserError, match=message):
            create_model("timesformer_base", 5, **{**SMALL, **changes})
    with pytest.raises(UserError, match="attention"):
        create_model("timesformer_base", 5, attention="axial")


@pytest.mark.parametrize(
    ("name", "changes", "gmacs", "millions"),
    [
        ("timesformer_base", {}, 195.8, 121.57),
        ("timesformer_base", {"attention": "joint"}, 179.6, 86.11),
        ("timesformer_base", {"attention": "space"}, 140.5, 86.11),
        ("timesformer_hr", {}, 1702.7, 122.0),
        ("timesformer_large", {}, 2379.9, 121.6),
    ],
)
def test_work_and_parameters_are_the_published(
    name: str, changes: dict[str, str], gmacs: float, millions: float
) -> None:
    with torch.device("meta"):
        model = create_model(name, **changes)
    assert count_gmacs(model) == pytest.approx(gmacs, abs=0.06)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.06)


def test_compiling_breaks_no_graph_and_changes_no_logit() -> None:
    model = small("divided")
    x = torch.randn(2, 3, 4, 32, 32)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), model(x), atol=1e-5)
    assert torch.allclose(compiled(x), model(x), atol=1e-5)


def test_no_tensor_grows_with_the_square_of_the_frames() -> None:
    largest = [largest_tensor(small("divided", depth=1), frames) for frames in (8, 32)]
    assert largest[1] <= 4 * largest[0]


def largest_tensor(model: TimeSformer, frames: int) -> int:
    """Elements of the largest tensor that a training step keeps."""
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        model.train()(torch.randn(1, 3, frames, 32, 32)).sum().backward()
    return max(sizes)


def test_settings_are_plain_data() -> None:
    assert TimeSformerConfig(**small("joint").settings()).attention == "joint"
