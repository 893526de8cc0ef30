"""YAML and JSON as plain data, within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from hybridvideo.config.training import Tracker
from hybridvideo.documents import load_json, load_scalar, load_yaml, read_text, read_yaml
from hybridvideo.errors import UserError


def test_yaml_gives_what_json_holds() -> None:
    text = "a: [1, -2, 0x10, 1_000, 1.5E+3, .5, 2., yes, off, ~, null]\nb: {c: 'x', d: \"\\u00e9\"}\ne: 2001-01-01\n"
    assert load_yaml(text, "x", "y") == {
        "a": [1, -2, 16, 1000, 1500.0, 0.5, 2.0, True, False, None, None],
        "b": {"c": "x", "d": "é"},
        "e": "2001-01-01",
    }  # fmt: skip
    assert load_yaml("", "x", "y") is None and load_yaml("a: 1:30\nb: 010", "x", "y") == {"a": "1:30", "b": "010"}


@pytest.mark.parametrize(
    "value", [1, -1.5, 1e-5, 1e22, "1e5", "yes", "~", "", "a: b", "é", "null", None, True, [1, [2]], {"a": {}}]
)
def test_what_yaml_wrote_comes_back(value: object) -> None:
    assert load_yaml(yaml.safe_dump({"k": value}, allow_unicode=True), "x", "y") == {"k": value}


def test_a_scalar_is_itself_whole() -> None:
    assert [load_scalar(text) for text in ("3", "1e-4", "true", "null", "", "a #b: c", "-", "*a", "!!x")] == [
        3, "1e-4", True, None, None, "a #b: c", "-", "*a", "!!x",
    ]  # fmt: skip


def test_refusals_say_where_and_what_to_do(tmp_path: Path) -> None:
    for text, reason in [
        ("a: *b", "aliases"),
        ("a: 1\na: 2", "'a' appears twice"),
        ("a: !!set {b}", "tag"),
        ("? [a]\n: 1", ""),
    ]:
        with pytest.raises(UserError, match=rf"^here is not YAML: .*{reason}.*; do that$"):
            load_yaml(text, "here", "do that")
    with pytest.raises(UserError, match=r"^here is not JSON: .*; do that$"):
        load_json("{'a': 1}", "here", "do that")
    with pytest.raises(UserError, match=r"none.yaml cannot be read: No such file or directory; do that"):
        read_yaml(tmp_path / "none.yaml", "do that")
    with pytest.raises(UserError, match=r"^here is not YAML: .{200}; do that$"):
        load_yaml("!" * 5000, "here", "do that")
    (tmp_path / "long").write_text("x" * 11)
    with pytest.raises(UserError, match=r"long has 11 bytes, more than the limit of 10"):
        read_text(tmp_path / "long", "do that", 10)


def test_names_of_files_that_are_not_utf8_are_read_where_names_are_expected() -> None:
    assert load_json('["caf\\udce9"]', "x", "y", any_name=True) == ["caf\udce9"]
    for text in ('["\\ud800"]', '{"\\ud800": 1}'):
        with pytest.raises(UserError, match="lone surrogate"):
            load_json(text, "x", "y", any_name=True)
    with pytest.raises(UserError, match="lone surrogate"):
        load_json('["caf\\udce9"]', "x", "y")


def test_the_trackers_are_those_of_accelerate() -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert set(get_args(Tracker)) == {"all", *LOGGER_TYPE_TO_CLASS}
