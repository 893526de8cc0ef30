"""UniFormer weights: every documented key, both ways, from video and image networks, with the classes in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.published.uniformer import UniFormer
from hybridvideo.weights.label_order import UNIFORMER_KINETICS400
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.layouts.layout import State
from hybridvideo.weights.layouts.uniformer import MMACTION_UNIFORMER, UNIFORMER
from hybridvideo.weights.load_weights import load_weights

Shapes = dict[str, tuple[int, ...]]
DIMS, DEPTHS = (8, 16, 24, 32), (2, 1, 2, 1)
SMALL = {"dims": DIMS, "depths": DEPTHS, "head_dim": 8, "frames": 4, "height": 64, "width": 64}


def vectors(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def batch_norm(name: str, dim: int) -> Shapes:
    statistics: Shapes = {f"{name}.running_mean": (dim,), f"{name}.running_var": (dim,)}
    return {**vectors(name, dim), **statistics, f"{name}.num_batches_tracked": ()}


def layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}


def conv_block(name: str, dim: int, t: tuple[int, ...]) -> Shapes:
    """`t`: the side of a kernel of one frame, () for images."""
    three, five = tuple(3 for _ in t), tuple(5 for _ in t)
    return {
        **layer(f"{name}.pos_embed", dim, 1, *three, 3, 3), **batch_norm(f"{name}.norm1", dim),
        **layer(f"{name}.conv1", dim, dim, *t, 1, 1), **layer(f"{name}.conv2", dim, dim, *t, 1, 1),
        **layer(f"{name}.attn", dim, 1, *five, 5, 5), **batch_norm(f"{name}.norm2", dim),
        **layer(f"{name}.mlp.fc1", 4 * dim, dim, *t, 1, 1), **layer(f"{name}.mlp.fc2", dim, 4 * dim, *t, 1, 1),
    }  # fmt: skip


def attention_block(name: str, dim: int, t: tuple[int, ...]) -> Shapes:
    return {
        **layer(f"{name}.pos_embed", dim, 1, *(3 for _ in t), 3, 3), **vectors(f"{name}.norm1", dim),
        **layer(f"{name}.attn.qkv", 3 * dim, dim), **layer(f"{name}.attn.proj", dim, dim),
        **vectors(f"{name}.norm2", dim),
        **layer(f"{name}.mlp.fc1", 4 * dim, dim), **layer(f"{name}.mlp.fc2", dim, 4 * dim),
    }  # fmt: skip


def shapes(
    dims: tuple[int, ...] = DIMS, depths: tuple[int, ...] = DEPTHS, classes: int = 400, image: bool = False
) -> Shapes:
    """All tensors of a checkpoint."""
    t = () if image else (1,)
    found: Shapes = {}
    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True), 1):
        kernel = (*(3 for _ in t), 4, 4) if stage == 1 else (*t, 2, 2)
        found |= layer(f"patch_embed{stage}.proj", dim, 3 if stage == 1 else dims[stage - 2], *kernel)
        found |= vectors(f"patch_embed{stage}.norm", dim)
        for i in range(depth):
            found |= (conv_block if stage < 3 else attention_block)(f"blocks{stage}.{i}", dim, t)
    return {**found, **batch_norm("norm", dims[-1]), **layer("head", classes, dims[-1])}


def fabricated(shapes: Shapes) -> State:
    torch.manual_seed(0)
    return {
        key: torch.tensor(7) if key.endswith("tracked") else torch.rand(shape) + 0.5 for key, shape in shapes.items()
    }


def test_the_published_checkpoints_have_331_tensors() -> None:
    assert len(shapes((64, 128, 320, 512), (3, 4, 8, 3))) == 331


@pytest.mark.parametrize(
    ("name", "dims", "depths"),
    [("uniformer_small", (64, 128, 320, 512), (3, 4, 8, 3)), ("uniformer_base", (64, 128, 320, 512), (5, 8, 20, 7))],
)
def test_every_key_of_a_published_checkpoint_fits_its_model(
    name: str, dims: tuple[int, ...], depths: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        theirs = {key: torch.empty(shape) for key, shape in shapes(dims, depths).items()}
        own = create_model(name).state_dict()
    assert UNIFORMER.architecture(theirs) == (name, {})
    assert {key: value.shape for key, value in UNIFORMER.to_ours(theirs).items()} == {
        key: value.shape for key, value in own.items()
    }


def test_the_way_back_gives_the_same_checkpoint() -> None:
    theirs = fabricated(shapes())
    assert_same(UNIFORMER.to_theirs(UNIFORMER.to_ours(theirs)), theirs)


def test_the_way_back_of_mmaction_gives_the_same_checkpoint() -> None:
    theirs = mmaction(fabricated(shapes()))
    assert_same(MMACTION_UNIFORMER.to_theirs(MMACTION_UNIFORMER.to_ours(theirs)), theirs)


def mmaction(state: State) -> State:
    """The same tensors under mmaction2's names."""
    names = {"head.weight": "cls_head.fc_cls.weight", "head.bias": "cls_head.fc_cls.bias"}
    return {names.get(key, f"backbone.{key}"): value for key, value in state.items()}


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def test_one_layout_and_no_other_recognises_each() -> None:
    theirs = fabricated(shapes())
    assert [layout.name for layout in LAYOUTS if layout.fits(theirs)] == ["UniFormer"]
    assert [layout.name for layout in LAYOUTS if layout.fits(mmaction(theirs))] == ["UniFormer (mmaction2)"]


@pytest.mark.parametrize("wrapper", [None, "model", "model_state"])
def test_a_checkpoint_loads_bare_and_in_its_wrappers(wrapper: str | None, tmp_path: Path) -> None:
    theirs = fabricated(shapes())
    torch.save(theirs if wrapper is None else {wrapper: theirs}, tmp_path / "weights.pth")
    model = create_model("uniformer_small", **SMALL)
    report = load_weights(model, tmp_path / "weights.pth")
    assert not report.missing and not report.unexpected
    pointwise = theirs["blocks1.1.mlp.fc1.weight"][..., 0, 0, 0]
    assert torch.equal(model.get_parameter("stages.0.1.mlp.fc1.weight"), pointwise)


def test_logits_come_in_the_alphabetical_order_of_kinetics() -> None:
    theirs = fabricated(shapes())
    x = torch.randn(1, 3, 4, 64, 64)
    model = create_model("uniformer_small", **SMALL).eval()
    load_weights(model, theirs)
    by_them = model.forward_head(model.forward_features(x), pre_logits=True) @ theirs["head.weight"].t()
    by_them = by_them + theirs["head.bias"]
    assert torch.allclose(model(x)[0, 0], by_them[0, 341], atol=1e-4)  # abseiling
    assert torch.allclose(model(x), by_them[:, list(UNIFORMER_KINETICS400)], atol=1e-4)


@pytest.mark.parametrize("classes", [1000, 600, 10])
def test_the_order_of_other_class_lists_is_left_alone(classes: int) -> None:
    theirs = fabricated(shapes(classes=classes))
    assert torch.equal(UNIFORMER.to_ours(theirs)["head.weight"], theirs["head.weight"])


def test_the_head_of_mmaction_is_in_order_already() -> None:
    theirs = mmaction(fabricated(shapes()))
    assert torch.equal(MMACTION_UNIFORMER.to_ours(theirs)["head.weight"], theirs["cls_head.fc_cls.weight"])


def test_the_stem_of_image_weights_sees_an_image_in_a_still_video() -> None:
    """Spread evenly over a kernel's frames, they sum to the image's; away from the ends of the clip, that is."""
    theirs = fabricated(shapes(classes=1000, image=True))
    model = create_model("uniformer_small", 1000, **SMALL)
    load_weights(model, theirs)
    stem = theirs["patch_embed1.proj.weight"]
    assert isinstance(model, UniFormer)
    assert torch.allclose(model.stem.weight.sum(2), stem) and model.stem.weight.shape[2] == 3
    image = torch.randn(1, 3, 64, 64)
    inside = model.forward_stem(image[:, :, None].expand(-1, -1, 6, -1, -1))[:, 1]
    flat = torch.nn.functional.conv2d(image, stem, theirs["patch_embed1.proj.bias"], stride=4).permute(0, 2, 3, 1)
    norm = theirs["patch_embed1.norm.weight"], theirs["patch_embed1.norm.bias"]
    assert torch.allclose(inside, torch.nn.functional.layer_norm(flat, (DIMS[0],), *norm), atol=1e-4)


def test_image_weights_need_a_new_head() -> None:
    theirs = fabricated(shapes(classes=1000, image=True))
    model = create_model("uniformer_small", 5, **SMALL)
    with pytest.raises(UserError, match="1000 classes"):
        load_weights(model, theirs)
    report = load_weights(model, theirs, head="replace")
    assert not report.unexpected
    depthwise: Tensor = model.get_parameter("stages.0.0.conv.weight")
    assert depthwise.shape == (DIMS[0], 1, 5, 5, 5)
    assert torch.allclose(depthwise, theirs["blocks1.0.attn.weight"][:, :, None].expand_as(depthwise) / 5)


def test_layer_scale_is_another_network() -> None:
    theirs = fabricated({**shapes(), "blocks3.0.gamma_1": (DIMS[2],)})
    with pytest.raises(UserError, match="gamma_1"):
        load_weights(create_model("uniformer_small", **SMALL), theirs)


def test_sizes_of_no_variant_are_read_off_the_tensors() -> None:
    name, changes = UNIFORMER.architecture(fabricated(shapes()))
    assert (name, changes) == ("uniformer_small", {"depths": list(DEPTHS), "dims": list(DIMS)})


def test_what_mmaction_says_of_its_port_travels_with_it() -> None:
    known = MMACTION_UNIFORMER.published("uniformer_small")
    assert known is not None and known.top1 == 80.9 and known.views.average == "softmax"
    assert MMACTION_UNIFORMER.published("uniformer_large") is None
