"""Plain data into dataclasses: strict, and no more than data."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.config.training import TrainRun
from hybridvideo.errors import UserError
from hybridvideo.models import MODELS, create_model
from hybridvideo.models.families.hybrid import HYBRIDS
from hybridvideo.models.variants import Variant
from hybridvideo.parsing import changed, merged, parsed, plain


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int] = (1, 2)
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.share > 1:
            raise UserError(f"share is {self.share}; give up to 1")
        _ = 1 / self.share


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    inners: tuple[Inner, ...] = ()
    kind: Literal["a", "b", 3] = "a"
    names: list[str] | str | None = None
    count: int | None = None
    flag: bool = False
    free: dict[str, Any] = field(default_factory=dict)
    table: dict[str, list[str]] = field(default_factory=dict)


def test_values_take_their_types() -> None:
    inners = {"inner": {"size": [3, 4], "share": 1}, "inners": [{}, {"size": (5, 6)}]}
    others = {"kind": 3, "names": ["a"], "count": None, "free": {"a": [{"b": None}]}, "table": {"k": ["v"]}}
    made = parsed(Outer, {"name": "x", **inners, **others})
    assert made.inner == Inner((3, 4), 1.0) and isinstance(made.inner.share, float)
    assert made.inners == (Inner(), Inner((5, 6))) and made.kind == 3 and made.names == ["a"]
    assert made.free == {"a": [{"b": None}]} and made.table == {"k": ["v"]}
    assert parsed(Outer, plain(made)) == made
    for text, number in {"1e-4": 1e-4, "-1.5E+3": -1500.0, ".5e0": 0.5}.items():  # as YAML reads them
        assert parsed(Inner, {"share": text}).share == number and parsed(Outer, {"name": text}).name == text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "name is missing; give text"),
        ({"name": None}, "name is null; give text"),
        ({"name": 3}, "name is 3; give text"),
        ({"name": "a\0b"}, "name contains a NUL character"),
        ({"name": "x", "nme": 1}, "unknown setting nme (did you mean 'name'?); Outer has name, inner"),
        ({"name": "x", "inner": {"sise": 1}}, "unknown setting inner.sise (did you mean 'size'?)"),
        ({"name": "x", "inners": [{}, {"sise": 1}]}, "unknown setting inners[1].sise"),
        ({"name": "x", "inner": {"size": [1]}}, "inner.size is a list of 1; give a list of 2, each a whole number"),
        ({"name": "x", "inner": {"size": [1, True]}}, "inner.size[1] is true; give a whole number"),
        ({"name": "x", "inner": {"size": [1, 2.0]}}, "inner.size[1] is 2.0; give a whole number"),
        ({"name": "x", "inner": {"size": [1, 2**64]}}, "inner.size[1] is too large"),
        ({"name": "x", "inner": {"share": "0.5"}}, "inner.share is '0.5'; give a number"),
        ({"name": "x", "inner": {"share": True}}, "inner.share is true; give a number"),
        ({"name": "x", "inner": {"share": float("nan")}}, "inner.share is nan; give a number"),
        ({"name": "x", "inner": {"share": float("inf")}}, "inner.share is inf; give a number"),
        ({"name": "x", "inner": {"share": 10**400}}, "inner.share is an integer of more than 64 bits"),
        ({"name": "x", "inner": {"share": "1e999"}}, "inner.share is '1e999'; give a number"),
        ({"name": "x", "inner": {"share": 2}}, "share is 2.0; give up to 1"),
        ({"name": "x", "inner": {"share": 0}}, "inner cannot be used: float division by zero"),
        ({"name": "x", "inner": None}, "inner is null; give a mapping of settings"),
        ({"name": "x", "inner": "tests.Inner"}, "inner is 'tests.Inner'; give a mapping of settings"),
        ({"name": "x", "kind": "c"}, "kind is 'c'; give one of a, b, 3"),
        ({"name": "x", "kind": 3.0}, "kind is 3.0; give one of a, b, 3"),
        ({"name": "x", "kind": "3"}, "kind is '3'; give one of a, b, 3"),
        ({"name": "x", "names": 1}, "names is 1; give a list, each item text or text or null"),
        ({"name": "x", "names": ["a", 1]}, "names[1] is 1; give text"),
        ({"name": "x", "flag": 1}, "flag is 1; give true or false"),
        ({"name": "x", "count": "1"}, "count is '1'; give a whole number or null"),
        ({"name": "x", "table": {"k": "v"}}, "table.k is 'v'; give a list"),
        ({"name": "x", 1: 2}, "1 is not the name of a setting"),
        ({"name": "x", "class_path": "a.B"}, "class_path: settings are data"),
        ({"name": "x", "inner": {"init_args": {}}}, "inner.init_args: settings are data"),
        ({"name": "x", "free": {"a": [[{"class_path": 1}]]}}, "free.a[0][0].class_path: settings are data"),
        ({"name": "x", "free": {"a": {"b": {1: 2}}}}, "free.a.b.1 is not the name"),
        ({"name": "x", "free": {"a": float("-inf")}}, "free.a is -inf; give a finite number"),
        ({"name": "x", "free": {"a": datetime.date(2001, 1, 1)}}, "free.a is a date; give text"),
        ({"name": "x", "free": {"a": Inner}}, "free.a is a type; give text"),
    ],
)
def test_what_does_not_fit_is_reported_with_its_place(values: dict[Any, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        parsed(Outer, values, "here.json")
    assert str(refused.value).startswith("here.json: ") and message in str(refused.value)


def test_deep_nesting_is_reported() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(UserError, match="nest"):
        parsed(Outer, {"name": "x", "free": {"a": deep}})
    with pytest.raises(UserError, match="nest"):
        create_model("hybrid_micro", 2, stem=deep)


def test_a_change_leaves_what_it_does_not_name() -> None:
    old = Outer("x", free={"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]})
    new = changed(old, {"free": {"a": {"c": {"f": 3}}, "e": [3]}, "inner": {"share": 0.25}})
    assert new == Outer("x", Inner((1, 2), 0.25), free={"a": {"b": 1, "c": {"d": 2, "f": 3}}, "e": [3]})
    assert merged({"a": {"b": 1}}, {"a": None}) == {"a": None}


def test_every_config_comes_back_from_its_own_plain_data() -> None:
    configs = [builder.config for builder in MODELS.values() if isinstance(builder, Variant)]
    assert len(configs) > 10 and HYBRIDS
    for config in [*configs, TrainRun(), EvalConfig()]:
        assert parsed(type(config), plain(config)) == config
