"""The grammar of hybrids: whatever its settings say, a network builds, runs and learns, or one line says why not."""

from __future__ import annotations

import pickle
import random
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from hybridvideo.config.model import GateConfig, StageConfig
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import Outputs
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.kinds import KINDS

# Values to draw from; settings that are one of a few words are read from their types.
VALUES: dict[str, list[Any]] = {
    "depth": [1, 2],
    "heads": [2, 4],
    "window": [[2, 2, 2], [3, 5, 2]],
    "mlp_ratio": [0, 0.5, 2],
    "merge": [True],
    "dim": [8, 24],
    "stride": [2],
    "time_stride": [2, 3],
    "tokens": [3],
    "random_keys": [0, 5],
    "features": [8],
    "kernel": [[1, 3, 3], [3, 3, 3], [5, 1, 1]],
    "dropout": [0.1],
    "layer_scale": [0.1],
    "attention": sorted(KINDS),
    "convolution": sorted(KINDS),
}
MOST_CHANGED = 4  # settings of a stage


def words(config: type) -> dict[str, list[Any]]:
    """Settings that are one of a few words."""
    hints = get_type_hints(config)
    return {name: list(get_args(hint)) for name, hint in hints.items() if get_origin(hint) is Literal}


def drawn_stage(draw: random.Random) -> dict[str, Any]:
    """A stage of a kind, with a few settings that mostly have a meaning for it."""
    block = draw.choice(sorted(KINDS))
    values = {**words(StageConfig), **VALUES}
    likely = [name for name in values if name in KINDS[block].reads] or list(values)
    names = [draw.choice(likely if draw.random() < 0.6 else list(values)) for _ in range(draw.randint(0, MOST_CHANGED))]
    stage = {"block": block, "depth": 1, **{name: draw.choice(values[name]) for name in names}}
    if draw.random() < 0.2:
        stage["gate"] = {name: draw.choice(options) for name, options in words(GateConfig).items()}
    return stage


def drawn(seed: int) -> dict[str, Any]:
    """A hybrid."""
    draw = random.Random(seed)
    return {
        "frames": draw.choice([1, 2, 5]),
        "height": 16,
        "width": draw.choice([16, 24]),
        "stem": {"widths": [8]},
        "dim": draw.choice([None, 16]),
        "position": draw.choice(["none", "absolute", "sinusoidal"]),
        "time": draw.random() > 0.2,
        "drop_path": draw.choice([0.0, 0.2]),
        "stages": [drawn_stage(draw) for _ in range(draw.randint(1, 3))],
    }


@pytest.mark.parametrize("seed", range(0, 400, 40))
def test_random_hybrids_run_and_learn_or_are_refused_in_one_line(seed: int) -> None:
    built = 0
    for number in range(seed, seed + 40):
        settings = drawn(number)
        try:
            model = create_model("hybrid", 3, **settings)
        except UserError as refused:
            assert "\n" not in str(refused) and len(str(refused)) < 400, settings
            continue
        built += 1
        check_runs(model, settings)
    assert built >= 4  # of 40: the draw is not all nonsense


def check_runs(model: Any, settings: dict[str, Any]) -> None:
    """Train on two clips, predict on one of another size, on each of the two alone, and as a copy."""
    x = torch.randn(2, 3, settings["frames"], settings["height"], settings["width"])
    out = model.train()(x)
    logits = out.logits if isinstance(out, Outputs) else out
    assert logits.shape == (2, 3) and logits.isfinite().all(), settings
    logits.square().sum().backward()
    with torch.no_grad():
        other = model.eval()(torch.randn(1, 3, settings["frames"] + 1, 20, 28))
        clips = model(x)
        alone = torch.cat([model(clip[None]) for clip in x])
        again = pickle.loads(pickle.dumps(model))(x)
    assert other.shape == (1, 3) and other.isfinite().all(), settings
    assert torch.allclose(alone, clips, atol=1e-4, rtol=1e-3) and torch.equal(again, clips), settings


@pytest.mark.parametrize("block", sorted(KINDS))
def test_every_kind_builds_bare_and_with_each_setting_that_it_reads(block: str) -> None:
    kind = KINDS[block]
    values = {**words(StageConfig), **VALUES}
    single = [{name: value} for name in kind.reads if name in values for value in values[name]]
    refused = 0
    for change in [{}, *single]:
        stage = {"block": block, "depth": 1, **change}
        settings = {"frames": 3, "height": 16, "width": 16}
        try:
            model = create_model("hybrid", 3, stem={"widths": [16]}, stages=[stage], **settings)
        except UserError as error:
            assert change and "\n" not in str(error), (change, error)
            refused += not names_a_kind(change)
            continue
        check_runs(model, settings)
    assert refused <= sum(not names_a_kind(change) for change in single) / 2


def names_a_kind(change: dict[str, Any]) -> bool:
    """Few kinds make sense inside another."""
    return "attention" in change or "convolution" in change


@pytest.mark.parametrize("block", sorted(KINDS))
def test_a_setting_without_meaning_is_refused_by_name(block: str) -> None:
    reads = {*KINDS[block].reads}
    assert reads <= {field.name for field in fields(StageConfig)}
    if "window" not in reads:
        with pytest.raises(UserError, match=r"stages\[0\].window has no meaning"):
            create_model("hybrid", 3, stages=[{"block": block, "window": [2, 2, 2]}])


@torch.no_grad()
@pytest.mark.parametrize("block", sorted(KINDS))
def test_the_control_of_every_kind_treats_frames_alike(block: str) -> None:
    torch.manual_seed(0)
    settings = {"frames": 4, "height": 16, "width": 16, "stem": {"widths": [16]}, "time": False}
    control = create_model("hybrid", 3, stages=[{"block": block}], **settings).eval()
    assert isinstance(control, Hybrid)
    x = torch.randn(1, 3, 4, 16, 16)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(control.forward_features(x[:, :, order]), control.forward_features(x)[:, order], atol=1e-5)
