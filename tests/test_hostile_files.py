"""Whatever a file says, nothing of it is run, and what cannot be used is one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hybridvideo as hv
from hybridvideo import cli
from hybridvideo.errors import UserError
from tests.hostile import CLASS, leaves, no_file, place, refusal, with_value, written

PLACES = [
    "card", "card evaluated", "card extracted", "config", "run resumed", "run predicted", "quarantine", "labels",
    "order", "hugging face", "processor", "shards", "recipe", "ledger", "data set", "state",
]  # fmt: skip
LAUGHS = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c, c, c - 1, c - 1) for c in range(98, 122))
# What no reader takes, as JSON or YAML.
UNREADABLE = {
    "not UTF-8": b'{"a": "\xff"}',
    "a NUL byte": b'{"a": "\0"}',
    "a NUL character": b'{"a": "\\u0000"}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "deep mappings": b'{"a":' * 10_000,
    "deep, and closed": b'{"a":' * 500 + b"1" + b"}" * 500,
    "a key twice": b'{"a": 1, "a": 1}',
    "a class": b'{"a": {"class_path": "os.system", "init_args": {"command": "touch owned"}}}',
    "a class in a list": b'{"a": [[1, {"class_path": "os.system"}]]}',
    "arguments of a class": b'{"a": {"b": {"init_args": {}}}}',
    "cut short": b'{"a": [1,',
}
NO_SETTINGS = {"empty": b"", "a list": b"[1, 2]", "a number": b"3", "deep lists": b"[" * 10_000}
JSON_ONLY = {
    "no number": b'{"a": NaN}',
    "beyond numbers": b'{"a": [-Infinity]}',
    "beyond floats": b'{"a": 1e999}',
    "beyond 64 bits": b'{"a": 18446744073709551616}',
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
}
YAML_ONLY = {
    "laughs": LAUGHS,
    "a loop": b"a: &a [*a]",
    "a call": b"a: !!python/object/apply:os.system ['touch owned']",
    "a module": b"a: !!python/module:canary",
    "a name": b"!!python/name:canary.Canary",
    "a date": b"a: !!timestamp 2001-01-01",
    "deep dashes": b"- " * 10_000,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module on the path that leaves a file when it is imported, or any part of it used."""
    trace = tmp_path / "owned"
    (tmp_path / "canary.py").write_text(f"open({str(trace)!r}, 'w')\nclass Canary: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield trace
    assert not trace.exists() and sys.modules.pop("canary", None) is None


@pytest.mark.parametrize("name", [name for name in PLACES if name != "ledger"])  # its damaged lines are redone
def test_what_cannot_be_read_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = place(name, tmp_path / "here")
    more = {} if name in ("labels", "order", "run predicted", "data set") else NO_SETTINGS
    more = more | (YAML_ONLY if at.file.suffix == ".yaml" else JSON_ONLY)
    for what, content in (UNREADABLE | more).items():
        at.write(at.file, content)
        assert at.file.name in refusal(at.attempt, capsys), what
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.parametrize("kind", ["folder", "pipe", "vast"])
@pytest.mark.parametrize("name", PLACES)
def test_what_is_not_a_file_is_one_line(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = place(name, tmp_path / "here")
    no_file(kind, at.file)
    text = refusal(at.attempt, capsys)
    assert at.file.name in text or name == "hugging face"  # without its configuration the folder is none of theirs


@pytest.mark.parametrize("name", ["card", "config", "run resumed", "hugging face"])
def test_a_class_is_made_nowhere_in_a_document(
    name: str, tmp_path: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = place(name, tmp_path / "here")
    for way in leaves(at.content):
        written(at, with_value(at.content, way, CLASS))
        assert "class_path" in refusal(at.attempt, capsys), way


@pytest.mark.parametrize("text", ["canary.Canary", "canary:Canary", "canary", "!!python/name:canary.Canary"])
def test_no_text_of_a_card_is_imported(text: str, tmp_path: Path, canary: Path) -> None:
    at = place("card", tmp_path / "here")
    for way in leaves(at.content):
        written(at, with_value(at.content, way, text))
        try:
            hv.load_model(at.file.parent)
        except UserError as error:
            assert str(error).isprintable()


def test_no_text_of_a_config_is_imported(tmp_path: Path, canary: Path) -> None:
    at = place("config", tmp_path / "here")
    for way in leaves(at.content):
        written(at, with_value(at.content, way, "canary.Canary"))
        try:
            run = cli.parse("train", ["--config", str(at.file)])["run"]
        except UserError as error:
            assert at.file.name in str(error)
        else:
            assert str(run).count("canary.Canary") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--model.changes", '{"stem": {"class_path": "canary.Canary"}}'],
        ["train", "--model.changes.stem.class_path", "canary.Canary"],
        ["train", "--model.changes.stem.init-args", "{}"],
        ["train", "--model.changes.stages", '[{"a": [{"class_path": "canary.Canary"}]}]'],
        ["train", "--model.class_path=canary.Canary"],
        ["train", "--model", "canary.Canary"],
        ["train", "--model", "model.yaml"],
        ["train", "--model.changes", "canary.Canary"],
        ["train", "--model.changes", "!!python/name:canary.Canary"],
        ["train", "--clip", '{"class_path": "canary.Canary"}'],
        ["convert", "a", "b", "--changes", '{"a": {"b": {"class_path": "canary.Canary", "init_args": {}}}}'],
        ["convert", "a", "b", "--changes.a.class_path", "canary.Canary"],
        ["predict", "a", "b", "--eval", "model.yaml"],
    ],
)
def test_no_option_makes_or_opens_anything(
    arguments: list[str], tmp_path: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("model.yaml").write_text("name: hybrid\n")
    assert "\n" not in refusal(lambda: cli.main(arguments), capsys)
    assert not canary.exists()


def test_settings_that_no_network_has_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = place("card", tmp_path / "here")
    for way, value in [
        (("settings", "stem", "widths"), ["4"]),
        (("settings", "stem", "widths"), [-4]),
        (("settings", "stem", "widths"), []),
        (("settings", "stem"), None),
        (("settings", "stages", 0, "heads"), 0),
        (("settings", "stages", 0, "window"), [0, 0, 0]),
        (("settings", "stages", 0, "window"), [2, 4]),
        (("settings", "stages"), {"0": {}}),
        (("settings", "stages"), [[]]),
        (("settings", "frames"), -1),
        (("settings", "frames"), True),
        (("settings", "frames"), 2**70),
        (("settings", "height"), "16"),
        (("settings",), {"num_classes": 3}),
        (("settings",), {"image_size": "x"}),
        (("settings",), {"image_size": [1, 2, 3]}),
        (("preprocessing", "normalisation", "std"), [0, 1, 1]),
        (("preprocessing", "clip", "frames"), 0),
        (("labels",), []),
        (("labels",), "ab"),
        (("labels",), ["a", 2]),
        (("name",), "nosuch"),
        (("eval", "crops"), 2),
    ]:
        written(at, with_value(at.content, way, value))
        assert str(at.file) in refusal(at.attempt, capsys), (way, value)
