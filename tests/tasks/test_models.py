"""`hybridvideo models`: every model has its row, at the cost that was published; one name has its card."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from hybridvideo.errors import UserError
from hybridvideo.models import FAMILIES, create_model, list_models
from hybridvideo.models.contract import count_gmacs
from hybridvideo.tasks.models import all_facts, all_speeds, row_of, run_models, short, with_short_stages
from tools.model_table import facts_of

# Billions of multiply-adds of a view at the standard input, as the papers and model zoos print them.
PUBLISHED_GMACS = {
    "timesformer_base": 195.8,
    "timesformer_hr": 1702.7,
    "timesformer_large": 2379.9,
    "uniformer_small": 41.7,
    "uniformer_base": 96.6,
    "video_swin_tiny": 87.8,
    "video_swin_small": 165.7,
    "video_swin_base": 281.3,
    "video_swin_large": 604.0,
    "videomae_small": 56.9,
    "videomae_base": 180.0,
    "videomae_large": 596.8,
    "videomae_huge": 1191.0,
    "slowfast_r50": 65.7,
    "mvit_v1_b": 70.6,
    "mvit_v2_s": 64.2,
    "r3d_18": 40.7,
    "r2plus1d_18": 40.5,
}


def test_the_table_has_every_model_in_the_order_of_the_registry() -> None:
    assert list(all_facts()) == list_models(), "run `python tools/model_table.py`"


@pytest.mark.parametrize("name", list_models())
def test_the_table_says_what_the_model_is(name: str) -> None:
    assert all_facts()[name] == json.loads(json.dumps(facts_of(name))), "run `python tools/model_table.py`"


@pytest.mark.parametrize("name", ["choice_tiny", "towers_base"])
def test_the_settings_of_a_card_are_short_and_still_build_the_model(name: str) -> None:
    settings = all_facts()[name]["settings"]
    short_settings = with_short_stages(settings)
    assert len(json.dumps(short_settings)) < 0.8 * len(json.dumps(settings))
    assert json.loads(json.dumps(create_model(name, 400, **short_settings).settings())) == settings


def test_listing_models_needs_no_torch() -> None:
    code = "import sys; from hybridvideo.cli import main; main(['models']); main(['models', 'x3d_m']); "
    code += "print(sorted({'torch', 'timm', 'torchvision', 'accelerate'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_the_cost_is_the_published_one(name: str) -> None:
    assert all_facts()[name]["gmacs"] == pytest.approx(PUBLISHED_GMACS[name], rel=0.005)


@pytest.mark.parametrize(("size", "most"), [("tiny", 3.0), ("base", 89.0)])
def test_every_family_keeps_to_the_budget_of_its_sizes(size: str, most: float) -> None:
    costs = {name: all_facts()[name]["gmacs"] for name in FAMILIES if name.endswith(f"_{size}")}
    assert len(costs) >= 20 and not {name for name, gmacs in costs.items() if gmacs > most}


def test_attention_is_counted_without_memory_as_with_it() -> None:
    changes = {"num_frames": 4, "image_size": 64, "dims": (8, 16, 16, 32), "depths": (1, 1, 1, 1), "head_dim": 16}
    real = count_gmacs(create_model("uniformer_small", **changes))
    with torch.device("meta"):
        assert count_gmacs(create_model("uniformer_small", **changes)) == real


def test_every_model_has_a_row_of_at_most_120_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_models("*") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    first_words = {line.split()[0] for line in lines if line.strip()}
    assert set(list_models()) - {"hybrid"} <= first_words


def test_a_row_shows_size_cost_figure_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    run_models("uniformer_*")
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("uniformer_small"))
    published = ["16x224x224", "80.8", "4x1", "4", "github.com/Sense-X/UniFormer"]
    assert row.split()[1:] == ["21.40", "41.66", speed_of("uniformer_small"), *published]
    assert "hybrid_tiny" not in out


def test_a_model_without_published_weights_is_reported_as_such() -> None:
    cells = row_of("hybrid_micro", all_facts()["hybrid_micro"])
    assert cells[3:] == [speed_of("hybrid_micro"), "8x32x32", "-", "-", "-", "-"]


def speed_of(name: str) -> str:
    """Return the cell of a model's clips per second: as measured, - if it was not."""
    speed = all_speeds()["clips_per_second"].get(name)
    return "-" if speed is None else f"{speed:.3g}"


def test_one_name_shows_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    run_models("uniformer_base")
    out = capsys.readouterr().out
    for text in (
        "16 frames of 224x224", "0.225", "49.81 million", "96.55 GMACs", "stem, stage1, stage2, stage3, stage4",
        "82 % on Kinetics-400: 4 x 1 views, 16 frames, stride 4, logits averaged", "ImageNet-1k", "Li et al. 2022",
        "depths: [5, 8, 20, 7]",
    ):  # fmt: skip
        assert text in out


def test_the_open_hybrid_has_a_card_but_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    run_models("hybrid")
    assert "stages: []" in capsys.readouterr().out


def test_a_pattern_of_nothing_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'uniformer_smal'.*did you mean 'uniformer_small'"):
        run_models("uniformer_smal")


def test_long_addresses_are_shortened_in_the_table() -> None:
    assert short("https://files.host.org/a/b/c/X3D_M.pyth") == "host.org/.../X3D_M.pyth"
    assert short("hf:owner/repo") == "hf:owner/repo"
