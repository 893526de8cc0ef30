"""Figures and settings in the docs are those of the models, and words are there for all of them."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from hybridvideo.commands.help import field_docs
from hybridvideo.models.families import FAMILIES
from hybridvideo.models.parts.kinds import KINDS
from hybridvideo.weights.timm_weights import checked_name

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("document_tables", ROOT / "tools" / "document_tables.py")
assert SPEC is not None and SPEC.loader is not None
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

FACTS = json.loads(tool.TABLE.read_text())


@pytest.mark.parametrize("page", tool.PAGES, ids=lambda page: page.name)
def test_pages_hold_what_the_tool_would_write(page: Path) -> None:
    text = page.read_text()
    assert tool.filled(text, FACTS) == text, "run python tools/document_tables.py"


def test_every_kind_of_block_is_described() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", (tool.DOCS / "models.md").read_text(), re.MULTILINE))
    assert all(len(rows[name]) > 5 for name in KINDS)


@pytest.mark.parametrize("name", sorted(tool.CONFIGS))
def test_every_setting_has_a_meaning(name: str) -> None:
    config = tool.CONFIGS[name]
    about = field_docs(config)
    assert [field.name for field in fields(config) if len(about[field.name]) < 5] == []
    assert f"<!-- settings of {name} -->" in (tool.DOCS / "models.md").read_text()


def test_costs_follow_the_table_of_models() -> None:
    facts = {"vit_base": {"gmacs": 1.26, "parameters": 123456789, "input": [8, 16, 16]}}
    assert tool.with_costs("**vit** (9 GMACs, 9 M), **other**.", facts) == "**vit** (1.3 GMACs, 123 M), **other**."
    assert tool.with_costs("**vit**. (Not this.)", facts) == "**vit** (1.3 GMACs, 123 M). (Not this.)"
    assert tool.with_costs("Take a **vit**.", facts) == "Take a **vit**."


def test_what_belongs_to_a_kind_is_in_its_row_and_nothing_else() -> None:
    assert tool.settings_of("temporal") == "`heads`, `relative`, *block*"
    assert tool.settings_of("mbconv") == "`stride`, `kernel`, `form`, `mlp_ratio`"
    assert tool.settings_of("parallel").startswith("`gate`, `convolution`, `attention`, those of the two")


def test_image_weights_are_published_and_start_models_that_exist() -> None:
    table = (tool.DOCS / "families.md").read_text().partition("## Image weights")[2].partition("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    for row in rows:
        models, sources = row.split("|")[1:3]
        for name in re.findall(r"timm:(\w+)", sources):
            assert checked_name(name) == name
        assert {name for name in re.findall(r"`(\w+)`", models) if name.endswith("_base")} <= set(FAMILIES)
    assert len(rows) > 10
