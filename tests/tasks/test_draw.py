"""`models NAME --draw`: what is drawn is what the model is."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridvideo import cli
from hybridvideo.models import create_model
from hybridvideo.models.contract import count_gmacs, count_parameters
from hybridvideo.report.plots.network import Lanes, Link, Network, Repeat, Step, Tile
from hybridvideo.tasks.draw import run_draw
from hybridvideo.tasks.support.anatomy import network_of, tiles


def drawn(name: str, **changes: Any) -> Network:
    with torch.device("meta"):
        model = create_model(name, **changes)
    network = network_of(name, model)
    assert network.gmacs == pytest.approx(count_gmacs(model)) and network.parameters == count_parameters(model)
    return network


def labels(steps: tuple[Step, ...]) -> list[str]:
    return [tile.label for tile in tiles(steps)]


ANY = (
    "hybrid_micro",
    "unet_tiny",
    "multiscale_tiny",
    "conformer_tiny",
    "choice_tiny",
    "towers_tiny",
    "video_swin_tiny",
    "uniformer_small",
)
OTHERS = ("timesformer_base", "slowfast_r50", "mvit_base_16x4", "r2plus1d_18")


@pytest.mark.parametrize("name", ANY + OTHERS)
def test_the_parts_of_any_model_add_up_to_its_cost_and_its_parameters(name: str) -> None:
    network = drawn(name)
    assert sum(part.gmacs for part in network.parts) == pytest.approx(network.gmacs, rel=1e-6)
    assert sum(part.parameters for part in network.parts) == network.parameters
    assert network.parts[0].name.endswith("stem") and network.parts[-1].name == "head"
    assert all(part.steps and part.gmacs > 0 and part.shape for part in network.parts[:-1])


def test_steps_are_in_the_order_in_which_they_run_and_blocks_are_counted() -> None:
    stage = {"block": "divided", "depth": 3, "position": "conv", "merge": True}
    (part,) = drawn("hybrid", stages=[stage], height=32, width=32, frames=4).parts[1:-1]
    merge, blocks = part.steps
    assert merge == Tile("grid", "merge 2x2") and isinstance(blocks, Repeat) and blocks.times == 3
    assert labels(blocks.steps) == ["position", "attention in time", "attention in space", "MLP"]
    assert part.shape == (4, 2, 2, 192)


def test_a_path_in_time_is_told_from_one_in_space() -> None:
    stage = {"block": "conv", "depth": 1, "temporal": "conv"}
    (part,) = drawn("hybrid", stages=[stage], height=32, width=32, frames=4).parts[1:-1]
    kinds = {tile.label: tile.kind for tile in tiles(part.steps)}
    assert kinds == {"depthwise 1x5x5": "conv", "MLP": "mlp", "depthwise 3x1x1": "time"}


def test_skips_and_levels_are_links() -> None:
    assert drawn("unet_tiny").links == (Link("stage2", "stage4"), Link("stage1", "stage5"))
    assert drawn("multiscale_tiny").links == tuple(Link(level, "head") for level in ("stage1", "stage2", "stage3"))
    assert not drawn("hybrid_micro").links


def test_the_decoder_is_drawn_with_and_without_its_encoder() -> None:
    for name, blocks in (("encoder_decoder_tiny", 2), ("decoder_tiny", 1)):
        head = drawn(name).parts[-1]
        assert len([step for step in head.steps if isinstance(step, Repeat)]) == blocks
        assert "cross-attention" in labels(head.steps)


@pytest.mark.parametrize("name", ["parallel_tiny", "choice_tiny", "conformer_tiny"])
def test_branches_are_lanes_with_convolution_in_one_and_attention_in_the_other(name: str) -> None:
    (block,) = [step for step in drawn(name).parts[1].steps if isinstance(step, Repeat)]
    (lanes,) = [step for step in block.steps if isinstance(step, Lanes)]
    first, second = ({tile.kind for tile in tiles(lane)} for lane in lanes.lanes)
    assert first == {"conv"} and "attention" in second and lanes.coupled is (name == "conformer_tiny")


def test_of_two_towers_each_reads_the_clip_and_the_first_is_linked_to_the_head() -> None:
    network = drawn("towers_tiny")
    assert [part.name for part in network.parts if part.begins] == ["attention.stem"]
    (link,) = network.links
    assert link.source.startswith("conv.stage") and link.target == "head"
    assert labels(network.parts[-1].steps) == ["align", "fuse"]


def test_pathways_are_lanes() -> None:
    stage = drawn("slowfast_r50").parts[2]
    (lanes,) = [step for step in stage.steps if isinstance(step, Lanes)]
    assert len(lanes.lanes) == 2 and stage.steps[-1] == Tile("time", "conv 7x1x1")


def test_the_command_writes_a_drawing_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["models", "hybrid_micro", "--draw", "--out", str(tmp_path / "new"), "--changes.stages", "[]"]
    assert cli.main(arguments) == 0
    assert "hybrid_micro.svg" in capsys.readouterr().out
    svg = (tmp_path / "new" / "hybrid_micro.svg").read_text()
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "stage1" not in svg
    page = (tmp_path / "new" / "hybrid_micro.html").read_text()
    assert "<svg" in page and "stages: []" in page and "</html>" in page


def test_the_model_of_a_config_is_drawn_without_its_weights(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: {name: hybrid, changes: {stem: {name: timm/resnet18, weights: none.pth, stride: 32}}}\n")
    run_draw("*", str(tmp_path), str(config), {"stem": {"stride": 16}})
    assert "resnet18 to stride 16" in (tmp_path / "mine.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hybrid_mikro", "--draw"], "did you mean 'hybrid_micro'"),
        (["hybrid_*", "--draw", "--changes.dim", "8"], "changes are those of one"),
        (["hybrid_tiny", "--out", "x"], "belong to --draw"),
        (["hybrid_tiny", "--draw", "--config", "none.yaml"], "give one of them"),
        (["--draw", "--config", "none.yaml"], "none.yaml"),
        (["hybrid_tiny", "--draw", "--changes.dimm", "8"], "did you mean 'dim'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["models", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["ctl\x01", 'a"><script>alert(1)<', "two\nlines", "byte\udcff"])
def test_a_files_name_is_shown_and_never_obeyed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = "{frames: 1, height: 16, width: 16, stem: {widths: [8]}}"
    Path(f"{name}.yaml").write_text(f"model: {{name: hybrid, changes: {settings}}}")
    assert run_draw("*", "out", f"{name}.yaml", {}) == 0
    assert capsys.readouterr().out.count("\n") == 1
    drawing = ElementTree.parse(f"out/{name}.svg")
    assert not list(drawing.iter("{http://www.w3.org/2000/svg}script"))
    assert "<script>alert" not in Path(f"out/{name}.html").read_text()


def test_weights_of_towers_are_not_opened_for_a_drawing(tmp_path: Path) -> None:
    stem = {"name": "timm/resnet18", "stride": 16, "weights": str(tmp_path / "none.pth")}
    assert run_draw("towers_tiny", str(tmp_path), None, {"conv": {"stem": stem, "input": {"mode": "rgb"}}}) == 0
