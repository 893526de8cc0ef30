"""What cannot be meant is refused in one line, before memory is taken."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import nn

from hybridvideo.config.model import HybridConfig
from hybridvideo.errors import UserError
from hybridvideo.models import MODELS, create_model, create_pretraining
from hybridvideo.models.checks import RANGES, check_size
from hybridvideo.models.published.videomae_pretraining import PRETRAINING
from hybridvideo.models.variants import Variant

CONFIGS = {type(variant.config) for variant in (*MODELS.values(), *PRETRAINING.values()) if hasattr(variant, "config")}


def numbers_of(config: type) -> set[str]:
    """Names of the fields, at any depth, that hold a number or several."""
    names: set[str] = set()
    hints = get_type_hints(config)
    for field in fields(config):  # type: ignore[arg-type]
        parts = kinds_in(hints[field.name])
        names |= {field.name} if parts & {int, float} else set()
        for part in parts:
            names |= numbers_of(part) if is_dataclass(part) else set()
    return names


def kinds_in(hint: Any) -> set[Any]:
    """The types that a hint is made of; of Literal their values' types."""
    inner = [kinds_in(part) if not isinstance(part, int | str) else {type(part)} for part in get_args(hint)]
    return {hint}.union(*inner)


@pytest.mark.parametrize("config", sorted([HybridConfig, *CONFIGS], key=str))
def test_every_number_of_every_config_has_a_range(config: type) -> None:
    assert numbers_of(config) <= set(RANGES)


STAGE = {"block": "joint"}
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("timesformer_base", {"depth": 10**9}, "depth is 1000000000; give a number from 1 to 1024"),
    ("timesformer_base", {"dim": 10**12, "heads": 1}, "dim is 1000000000000; give a number from 1"),
    ("timesformer_base", {"depth": -3}, "depth"),
    ("timesformer_base", {"heads": 0}, "heads"),
    ("timesformer_base", {"drop_path": 7}, "drop_path is 7.0; give a number from 0 to under 1"),
    ("timesformer_base", {"drop_path": float("nan")}, "drop_path is nan"),
    ("timesformer_base", {"patch": 0}, "patch"),
    ("timesformer_base", {"dim": 65536, "heads": 1, "depth": 1000}, "billion parameters, and at most 4 are allowed"),
    ("videomae_base", {"frames": 16384, "height": 16384, "width": 16384}, "billion parameters"),
    ("videomae_base", {"heads": 0}, "heads"),
    ("videomae_base", {"mlp_ratio": -1.0}, "mlp_ratio is -1.0"),
    ("video_swin_tiny", {"depths": [2, 10**9], "heads": [3, 6]}, "depths is .* give a number from 1 to 1024"),
    ("video_swin_tiny", {"depths": [], "heads": []}, "depths"),
    ("video_swin_tiny", {"heads": [0, 6, 12, 24]}, "heads"),
    ("video_swin_tiny", {"heads": [5, 6, 12, 24]}, "96 channels do not divide into 5 heads"),
    ("video_swin_tiny", {"depths": [2] * 33, "heads": [3] * 33}, "depths has 33 entries; give 32 or fewer"),
    ("video_swin_tiny", {"depths": [1] * 32, "heads": [3] * 32}, "billion parameters"),
    ("video_swin_tiny", {"window": [500, 500, 500]}, "billion parameters"),
    ("uniformer_small", {"dims": [64, 128, 320, 10**12]}, "dims"),
    ("uniformer_small", {"head_dim": 0}, "head_dim"),
    ("uniformer_small", {"depths": [1024, 1024, 1, 1]}, "2050 blocks in all; give 1024 or fewer"),
    ("hybrid", {"stages": [STAGE] * 1_000_000}, "stages has 1000000 entries"),
    ("hybrid", {"stages": [{**STAGE, "depth": 10**9}]}, r"stages\[0\].depth is 1000000000; give"),
    ("hybrid", {"stages": [{**STAGE, "heads": 0}]}, r"stages\[0\].heads is 0"),
    ("hybrid", {"stages": [{**STAGE, "depth": 1000}], "dim": 65536}, "billion parameters"),
    ("hybrid", {"stem": {"widths": []}}, "stem.widths is empty"),
    ("hybrid", {"stem": {"widths": [0]}}, "stem.widths"),
    ("hybrid", {"stem": {"std": [0.0, 1.0, 1.0]}}, "stem.std"),
    ("hybrid", {"input": {"limit": float("inf")}}, "input.limit is inf"),
    ("hybrid", {"head": {"hidden": -1}}, "head.hidden is -1"),
    ("hybrid", {"head": {"dropout": 1.5}}, "head.dropout is 1.5"),
    ("hybrid", {"frames": 0}, "frames"),
    ("hybrid", {"stages": [{"block": "mobilevit", "inner_depth": 1024, "depth": 2}]}, "2048 blocks in all"),
    ("towers_tiny", {"conv": {"stages": [{"block": "spatial", "depth": 1024}] * 2}}, "blocks in all"),
    ("encoder_decoder_tiny", {"encoder_depth": 1024}, "blocks in all"),
    ("levit_tiny", {"stages": [{"block": "levit", "value_ratio": 1e-30}]}, "billion parameters"),
    ("encoder_decoder_tiny", {"mlp_ratio": 1e-3}, "mlp_ratio is 0.001 with memory_dim"),
    ("hybrid", {"image_size": 10**9}, "height is 1000000000"),
    ("hybrid", {"image_size": "large"}, "image_size is 'large'; give S or"),
    ("hybrid", {"image_size": [1, 2, 3]}, "image_size"),
    ("hybrid", {"grad_checkpointing": "often"}, "grad_checkpointing is 'often'; give true or false"),
    ("slow_r50", {"channels": 0}, "channels"),
    ("slowfast_r50", {"channels": 12}, "channels"),
    ("slowfast_r50", {"alpha": 0}, "alpha"),
    ("x3d_s", {"width_factor": 0.0}, "width_factor"),
    ("x3d_s", {"depth_factor": 1e9}, "depth_factor"),
    ("mvit_base_16x4", {"depths": []}, "depths"),
    ("mvit_base_16x4", {"heads": 7}, "heads"),
    ("mvit_base_16x4", {"channels": 65536}, "billion parameters"),
    ("mvit_v2_s", {"heads": 7}, "heads"),
    ("mvit_v1_b", {"depths": [0, 1]}, "depths"),
    ("r3d_18", {"depths": [0, 1, 1, 1]}, "depths"),
    ("s3d", {"window": [0, 1, 1]}, "window"),
]


@pytest.mark.parametrize(("name", "changes", "said"), BAD)
def test_settings_that_make_no_network_are_refused_in_one_line(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        create_model(name, 3, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [0, -1, 10**9, 2.5, "many"])
def test_a_number_of_classes_that_makes_no_classifier_is_refused(classes: Any) -> None:
    with pytest.raises(UserError, match="num_classes is"):
        create_model("hybrid_micro", classes)
    with pytest.raises(UserError, match="num_classes is"):
        create_model("hybrid_micro", 3).reset_classifier(classes)


@pytest.mark.parametrize("changes", [{"depth": 10**9}, {"decoder_dim": 3 * 10**11}, {"drop_path": 7.0}, {"dpth": 3}])
def test_so_are_those_of_pretraining(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        create_pretraining("videomae_small", **changes)


def test_the_size_of_a_network_is_known_without_its_memory() -> None:
    with pytest.raises(UserError, match=r"a network of 1,000,001.0 billion parameters"):
        check_size(lambda: nn.Linear(10**6, 10**9))


def test_looking_at_the_size_draws_no_random_number() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for name, builder in MODELS.items():
        if isinstance(builder, Variant):
            check_size(lambda builder=builder: builder.network(builder.config, 2))  # type: ignore[misc]
            assert torch.equal(torch.get_rng_state(), before), name
