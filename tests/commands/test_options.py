"""Options and config files come together in one way, wherever they stand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridvideo import cli
from hybridvideo.commands.options import Command, names_of, types_of
from hybridvideo.commands.table import COMMANDS
from hybridvideo.config.data import ClipConfig
from hybridvideo.config.evaluation import Views
from hybridvideo.config.jobs import Compute, Decoding, Job, Reading
from hybridvideo.config.training import TrainRun
from hybridvideo.errors import UserError
from hybridvideo.parsing import plain

STEM = {"name": "small", "stride": 16, "widths": [8, 16]}
FILE = {"clip": {"frames": 8, "interval": 0.1}, "model": {"changes": {"stem": STEM, "stages": [{"depth": 1}]}}}


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(FILE))
    return str(path)


def run(*arguments: str) -> TrainRun:
    made = cli.parse("train", list(arguments))["run"]
    assert isinstance(made, TrainRun)
    return made


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("written", "changes"),
    [
        (["--model.changes.drop_path", "0.1"], {**FILE["model"]["changes"], "drop_path": 0.1}),
        (["--model.changes.drop-path=0.1"], {**FILE["model"]["changes"], "drop_path": 0.1}),
        (["--model.changes.stem.stride", "32"], {"stem": {**STEM, "stride": 32}, "stages": [{"depth": 1}]}),
        (["--model.changes.stem.stride=32"], {"stem": {**STEM, "stride": 32}, "stages": [{"depth": 1}]}),
        (["--model.changes.stem.a.b-c", "x"], {"stem": {**STEM, "a": {"b_c": "x"}}, "stages": [{"depth": 1}]}),
        (["--model.changes.stem", "{stride: 8}"], {"stem": {**STEM, "stride": 8}, "stages": [{"depth": 1}]}),
        (["--model.changes", "{stem: {stride: 8}}"], {"stem": {**STEM, "stride": 8}, "stages": [{"depth": 1}]}),
        (["--model={changes: {stem: {stride: 8}}}"], {"stem": {**STEM, "stride": 8}, "stages": [{"depth": 1}]}),
        (["--model.changes.stages", "[{depth: 2}, {}]"], {"stem": STEM, "stages": [{"depth": 2}, {}]}),
        (["--model.changes.stem.widths", "[4]"], {"stem": {**STEM, "widths": [4]}, "stages": [{"depth": 1}]}),
    ],
)
def test_an_option_changes_what_it_names_and_nothing_else(
    config: str, written: list[str], changes: dict[str, Any], first: bool
) -> None:
    arguments = [*written, "--config", config] if first else [f"--config={config}", *written]
    made = run(*arguments)
    assert made.model.changes == changes
    assert made.clip == ClipConfig(8, interval=0.1) and made.model.name == "hybrid_micro"


def test_no_order_of_options_matters(config: str) -> None:
    pairs = [("--config", config), ("--model.changes", "{stem: {stride: 2, a: 1}}"),
             ("--model.changes.stem", "{stride: 4, b: 2}"), ("--model.changes.stem.stride", "8"),
             ("--clip.frames", "3")]  # fmt: skip
    made = {str(run(*itertools.chain(*order))) for order in itertools.permutations(pairs)}
    assert len(made) == 1
    one = run(*itertools.chain(*pairs))
    assert one.model.changes["stem"] == {**STEM, "stride": 8, "a": 1, "b": 2} and one.clip == ClipConfig(3, 0.1)


def test_of_the_same_option_the_last_counts() -> None:
    assert run("--seed", "1", "--clip.frames=2", "--seed=3", "--clip.frames", "4").seed == 3


def test_of_several_configs_each_comes_on_top_of_those_before(config: str, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("clip: {frames: 2}\nmodel: {changes: {stem: {stride: 4}}}\n")
    options = cli.parse("train", ["--clip.pad", "loop", "--config", config, "--config", str(more)])
    assert options["name"] == "more" and options["run"].clip == ClipConfig(2, interval=0.1, pad="loop")
    assert options["run"].model.changes["stem"] == {**STEM, "stride": 4}
    assert run("--config", str(more), "--config", config).clip.frames == 8


def test_values_are_read_by_the_type_they_are_for(tmp_path: Path) -> None:
    made = run("--data.root", "2024", "--data.train=null", "--data.labels", "[a, b]", "--optim.clip-norm", "null",
               "--optim.lr", "1e-4", "--augment.area", "[0.5, 1]", "--train.keep", "best", "--eval.crops", "3",
               "--model.changes.weights", "a #1: b.pth", "--train.trackers", "[]")  # fmt: skip
    assert made.data.root == "2024" and made.data.train == "null" and made.data.labels == ["a", "b"]
    assert made.optim.clip_norm is None and made.optim.lr == 1e-4 and made.augment.area == (0.5, 1.0)
    assert made.train.keep == "best" and made.eval.crops == 3 and made.model.changes == {"weights": "a #1: b.pth"}
    assert run("--data.labels", "kinetics400").data.labels == "kinetics400"
    assert run("--data.root", "null").data.root is None


def test_other_commands_take_options_alike() -> None:
    options = cli.parse("predict", ["--eval.crops=3", "run", "--top-k", "2", "--", "-odd.mp4"])
    assert options["run"] == "run" and options["source"] == "-odd.mp4" and options["top_k"] == 2
    assert options["eval"] == Views(crops=3)
    bench = cli.parse("bench", ["loader", "videos", "--clip.frames", "8"])
    assert bench["clip"] == ClipConfig(8, stride=2)  # the command's own default for the rest
    convert = cli.parse(
        "convert", ["a", "b", "--changes.heads", "8", "--overwrite", "--changes", "{dim: 4, x: {y: 1}}"]
    )
    assert convert["changes"] == {"heads": 8, "dim": 4, "x": {"y": 1}} and convert["overwrite"] is True
    assert cli.parse("models", [])["pattern"] == "*"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--optim.lr", "fast"], "optim.lr is 'fast'; give a number"),
        (["train", "--optim.lr", "nan"], "optim.lr is 'nan'; give a number"),
        (["train", "--optim.lr", ".inf"], "give a number"),
        (["train", "--seed", "1.5"], "seed is 1.5; give a whole number"),
        (["train", "--seed", "true"], "seed is true; give a whole number"),
        (["train", "--clip.pad", "lst"], "clip.pad is 'lst' (did you mean 'last'?); give one of last, loop"),
        (["train", "--augment.area", "[1]"], "augment.area is a list of 1; give a list of 2"),
        (["train", "--augment.area", "[a, b]"], r"augment.area\[0\] is 'a'"),
        (["train", "--clip", "clip.yaml"], "clip is 'clip.yaml'; give a mapping of settings"),
        (["train", "--clip", "{frames: "], "--clip '{frames: ' is not YAML"),
        (["train", "--clip.frames"], "option --clip.frames needs a value"),
        (["train", "--clip.frames", "--resume"], "option --clip.frames needs a value"),
        (["train", "--clip.frmes", "3"], "unknown option --clip.frmes (did you mean '--clip.frames'?)"),
        (["train", "--clip.frames.x", "3"], "unknown option --clip.frames.x"),
        (["train", "--model.changes.", "3"], "unknown option --model.changes."),
        (["train", "-resume"], "unknown option -resume"),
        (["train", "--train.trackers", "[nosuch]"], r"train.trackers\[0\] is 'nosuch'; give one of all, aim"),
        (["train", "here"], "unexpected argument 'here'"),
        (["predict", "run"], "SOURCE is missing"),
        (["predict", "a", "b", "c"], "unexpected argument 'c'"),
        (["predict", "a", "b", "--config", "x"], "unknown option --config"),
        (["convert", "a", "b", "--changes", "[1]"], "changes is a list of 1; give a mapping of settings or null"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_reported_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        cli.parse(arguments[0], arguments[1:])
    assert message.replace("\\", "") in str(refused.value) and "\n" not in str(refused.value)


def test_all_settings_can_be_printed_and_given_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--clip.frames", "3", "--model.changes.stem.stride", "8", "--optim.lr", "1e-5"]
    with pytest.raises(SystemExit) as left:
        cli.main(["train", *options, "--print-config"])
    (tmp_path / "all.yaml").write_text(capsys.readouterr().out)
    assert left.value.code == 0 and plain(run("--config", str(tmp_path / "all.yaml"))) == plain(run(*options))


def test_shared_settings_are_options_without_a_section() -> None:
    options = cli.parse("predict", ["r", "v", "--workers", "4", "--precision=bf16", "--max-bad", "0.1", "--join"])
    assert options["reading"] == Reading(workers=4) and options["compute"] == Compute(precision="bf16")
    assert options["job"] == Job(max_bad=0.1, join=True)
    assert cli.parse("scan", ["v", "--workers", "0"])["decoding"] == Decoding(0, deadline=600.0)  # the command's own
    assert cli.parse("scan", ["v", "--overwrite"])["job"] == Job(max_bad=0.5, overwrite=True)
    assert cli.parse("train", ["--data.deadline", "9"])["run"].data.deadline == 9.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "r", "v", "--workers", "-1"], "workers is -1; give 0 or more"),
        (["train", "--data.workers", "-1"], "data.workers is -1; give 0 or more"),
        (["evaluate", "r", "--data.deadline", "0"], "data.deadline is 0.0; give seconds above 0"),
        (["predict", "r", "v", "--max-bad", "2"], "max_bad is 2.0; give a share from 0 to 1"),
        (["train", "--data.max_bad", "2"], "data.max_bad is 2.0; give a share from 0 to 1"),
        (["predict", "r", "v", "--reading.workers", "1"], "unknown option --reading.workers"),
        (["predict", "r", "v", "--precision", "fp8"], "precision is 'fp8' (did you mean 'fp32'?)"),
    ],
)
def test_a_message_names_a_shared_setting_as_it_was_given(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        cli.parse(arguments[0], arguments[1:])
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_the_table_names_arguments_that_exist(command: Command) -> None:
    assert {*command.positional, *command.flat} <= set(command.parameters)
    assert command.config is None or command.config in command.flat
    options = [name.removeprefix("--") for name in names_of(types_of(command))]
    assert len(options) == len(set(options))  # no flat setting hides another
    assert set(command.common) <= {*options, "config"}


def test_print_config_takes_no_value() -> None:
    with pytest.raises(UserError, match=r"option --print_config takes no value, but 'false' is given"):
        cli.parse("train", ["--print-config=false"])
