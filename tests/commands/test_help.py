"""Help: complete, by section, common options first, readable in a terminal of 100 columns."""

from __future__ import annotations

from dataclasses import is_dataclass

import pytest

from hybridvideo import cli
from hybridvideo.commands.help import help_text, sections_of
from hybridvideo.commands.options import names_of, type_at, types_of
from hybridvideo.commands.table import COMMANDS
from hybridvideo.errors import UserError


def shown(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a call prints."""
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_lists_every_option_with_a_description_and_nothing_else(name: str) -> None:
    command = COMMANDS[name]
    types = types_of(command)
    offered = {option for option in names_of(types) if not is_dataclass(type_at(types, option))}
    described = {
        option.name.replace("-", "_").replace("__", "--", 1): option.about
        for section in sections_of(command)
        for option in section.options
    }
    fixed = {"--print_config", "_h, --help", *(["--config"] if command.config else [])}
    keys = {name for name in described if not name.startswith(("-", "_"))}  # of settings that are lists of mappings
    assert set(described) - fixed - keys == offered and (name == "train") == bool(keys)
    assert all(described.values()), [option for option, about in described.items() if not about]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_fits_a_terminal_of_100_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert max(map(len, shown(name, "--help", capsys=capsys).splitlines())) <= 100


def test_help_of_train_begins_with_the_common_options_and_ends_with_the_sections(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown("train", "--help", capsys=capsys)
    sections = ("data", "clip", "frame", "augment", "model", "optim", "train", "eval")
    places = [text.index(f"\n{title}") for title in ("common:", "options:", *(f"{name}: " for name in sections))]
    assert places == sorted(places)
    assert "--data.train TEXT" in text[places[0] : places[1]] and "--optim.betas" not in text[places[0] : places[1]]
    assert text[places[-1] :].strip().endswith("eval\none of them: hybridvideo train --help SECTION")


def test_common_options_are_those_of_the_run_not_of_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    common = shown("train", "--help", capsys=capsys).partition("common:")[2].partition("options:")[0]
    assert "--clip.frames N             Frames in a clip. (default: 16)" in common
    assert all(line.startswith("  --") for line in common.splitlines() if line.strip() and line[2] != " ")


def test_a_section_can_be_asked_for_alone(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown("train", "--help", "clip", capsys=capsys)
    assert text.startswith("clip: Frames of a clip")
    assert " --clip.frames N             Frames in a clip. (default: 16)" in text
    assert " --clip.pad last|loop " in text and "--optim" not in text
    assert "--workers N" in shown("predict", "run", "--help", "reading", capsys=capsys)


def test_an_unknown_section_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no section 'optm' \(did you mean 'optim'\?\); give one of options, data"):
        help_text("hybridvideo train", COMMANDS["train"], "optm")


def test_defaults_are_those_of_the_command() -> None:
    assert "(default: 600.0)" in help_text("", COMMANDS["scan"], "decoding")
    assert "(default: 120.0)" in help_text("", COMMANDS["predict"], "reading")
    assert "(default: 32)" in help_text("", COMMANDS["bench"], "clip")


def test_a_setting_that_is_a_list_of_mappings_shows_their_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse("train", ["--help", "phases"])
    text = capsys.readouterr().out
    assert text.startswith("phases: a list, in YAML.")
    assert all(f"\n  {key} " in text for key in ("epochs", "clip.frames", "frame.height", "groups", "lr", "drop"))


def test_settings_of_a_hybrid_and_of_its_stages_are_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    hybrid, stages = (shown("train", "--help", name, capsys=capsys) for name in ("hybrid", "stages"))
    assert all(f"\n  {key} " in hybrid for key in ("input.mode", "stem.name", "drop_path", "head.pool", "adapter.kind"))
    assert all(f"\n  {key} " in stages for key in ("block", "heads", "gate.kind", "choice.cost", "form.squeeze"))
    assert max(map(len, (hybrid + stages).splitlines())) <= 100
    assert "stem.name" not in shown("train", "--help", capsys=capsys)
    with pytest.raises(UserError, match="no section 'hybrid'"):
        help_text("hybridvideo scan", COMMANDS["scan"], "hybrid")


def test_a_section_can_follow_an_equals_sign(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("train", "--help=clip", capsys=capsys) == shown("train", "--help", "clip", capsys=capsys)


def test_help_after_two_dashes_is_an_argument() -> None:
    assert cli.parse("predict", ["run", "--", "--help"])["source"] == "--help"
