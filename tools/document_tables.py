"""Figures and settings in the docs, from the models themselves: `python tools/document_tables.py` rewrites them.

In docs/families.md and the README, what families cost, from the table of `hybridvideo models`. In docs/models.md, which
settings each kind of block takes and what every setting means, from the code. Words are written by hand; a test
compares the rest. Run `python tools/model_table.py` first if models have changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import hybridvideo
from hybridvideo.commands.help import field_docs, metavar_of
from hybridvideo.config.model import (
    AdapterConfig,
    ChoiceConfig,
    FormConfig,
    GateConfig,
    HeadConfig,
    HybridConfig,
    InputConfig,
    StageConfig,
    StemConfig,
)
from hybridvideo.models.conformer import ConformerConfig
from hybridvideo.models.encoder_decoder import EncoderDecoderConfig
from hybridvideo.models.families import FAMILIES
from hybridvideo.models.parts.kinds import ALWAYS, INSIDE, KINDS, OF_ATTENTION, OF_BLOCK
from hybridvideo.models.parts.towers import FusionConfig
from hybridvideo.models.towers import TowersConfig

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = (DOCS / "families.md", DOCS / "models.md", DOCS.parent / "README.md")
TABLE = Path(hybridvideo.__file__).parent / "tasks" / "models.json"
SIZES = ("tiny", "base")
CONFIGS = {
    "model": HybridConfig,
    "input": InputConfig,
    "stem": StemConfig,
    "stages": StageConfig,
    "form": FormConfig,
    "gate": GateConfig,
    "choice": ChoiceConfig,
    "head": HeadConfig,
    "adapter": AdapterConfig,
    "conformer": ConformerConfig,
    "towers": TowersConfig,
    "fusion": FusionConfig,
    "encoder_decoder": EncoderDecoderConfig,
}


# --- what families cost -----------------------------------------------------------------------------------------------


def with_costs(text: str, facts: Mapping[str, Any]) -> str:
    """Fill in the cost behind each bold name that a paragraph begins with: that of the model for Kinetics-400."""

    def cost(match: re.Match[str]) -> str:
        fact = facts.get(f"{match[2]}_base")
        return match[0] if fact is None else f"{match[1]}**{match[2]}** ({figures(fact)})"

    return re.sub(r"(^|, )\*\*(\w+)\*\*(?: \([^)]*\))?(?=[,.:])", cost, text, flags=re.MULTILINE)


def with_flagship(text: str, facts: Mapping[str, Any]) -> str:
    """Fill in the row of the flagship in the README."""

    def row(match: re.Match[str]) -> str:
        fact = facts[match[1]]
        frames, height, width = fact["input"]
        cost = figures(fact).replace(" M", " M parameters")
        return f"| flagship, `{match[1]}`: {frames} frames of {height}x{width} | {cost} |"

    return re.sub(r"\| flagship, `(\w+)`.*\|", row, text)


def figures(fact: Mapping[str, Any]) -> str:
    """Return GMACs and millions of parameters of a model."""
    return f"{digits(fact['gmacs'])} GMACs, {digits(fact['parameters'] / 1e6)} M"


def digits(value: float) -> str:
    """Round to two digits, or to the integer."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2g}"


def costs_table(facts: Mapping[str, Any], _before: str) -> list[str]:
    """Return a row for each model of a family that is named by its size, the two sizes of a family in one row."""
    rows = [
        "| family | `tiny`: input | GMACs | M | `base`: input | GMACs | M |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family in dict.fromkeys(name.rpartition("_")[0] for name in FAMILIES if name.endswith(SIZES)):
        cells = [cell for size in SIZES for cell in cells_of(facts.get(f"{family}_{size}"))]
        rows.append(f"| `{family}` | {' | '.join(cells)} |")
    return rows


def cells_of(fact: Mapping[str, Any] | None) -> list[str]:
    """Return input, GMACs and millions of parameters of a model; blank if there is none."""
    if fact is None:
        return ["", "", ""]
    return ["x".join(map(str, fact["input"])), digits(fact["gmacs"]), digits(fact["parameters"] / 1e6)]


# --- what settings mean -----------------------------------------------------------------------------------------------


def kinds_table(_facts: Mapping[str, Any], before: str) -> list[str]:
    """Return a row for each kind of block, with its description in the table as it is."""
    described = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| [^|]*\|$", before, re.MULTILINE))
    rows = ["| `block` | what it is | its settings |", "| --- | --- | --- |"]
    return rows + [f"| `{name}` | {described.get(name, '')} | {settings_of(name)} |" for name in KINDS]


def settings_of(kind: str) -> str:
    """Return the settings that a kind takes, other than those of all stages."""
    reads = [name for name in KINDS[kind].reads if name not in OF_BLOCK]
    names = ", ".join(f"`{name}`" for name in reads)
    shared = KINDS[kind].mixers is not None or {*OF_BLOCK} <= {*KINDS[kind].reads}
    own = [f"`{name}`" for name in OF_BLOCK if name in KINDS[kind].reads and not shared]
    inside = ["those of the two"] if {*INSIDE} <= {*KINDS[kind].reads} else []
    parts = [*([names] if names else []), *own, *inside, *(["*block*"] if shared else [])]
    return ", ".join(parts)


def settings_table(config: type) -> Callable[[Mapping[str, Any], str], list[str]]:
    """Return what writes a row for each setting of a config: values, default, meaning."""

    def rows(_facts: Mapping[str, Any], _before: str) -> list[str]:
        hints, about = get_type_hints(config), field_docs(config)
        known = {field.name for field in fields(HybridConfig)} if config is EncoderDecoderConfig else set()
        lines = ["| setting | value | default | meaning |", "| --- | --- | --- | --- |"]
        for field in fields(config):
            if field.name not in known:
                lines.append(setting_row(field, hints[field.name], about[field.name]))
        return lines

    return rows


def setting_row(field: Any, hint: Any, about: str) -> str:
    """Return name, values, default and meaning of a setting."""
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    inner = is_dataclass(default)
    values = "settings" if inner else values_of(hint)
    return f"| `{field.name}` | {values} | {'' if inner else written(default)} | {about} |"


def values_of(hint: Any) -> str:
    """Return what a setting may be; of words, all of them."""
    words = [str(word) for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal for word in get_args(kind)]
    if words:
        listed = ", ".join(words)
        return f"[{listed}]" if get_origin(hint) is tuple else listed
    return metavar_of(hint, None).replace("|", " or ")


def written(default: object) -> str:
    """Return a default as YAML has it."""
    if isinstance(default, tuple):
        return f"[{', '.join(map(written, default))}]"
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def always(_facts: Mapping[str, Any], _before: str) -> list[str]:
    """Return which settings every kind takes, and which those with a `block` of the shared form."""
    grids = code(name for name, kind in KINDS.items() if kind.needs_grid)
    return [
        f"All kinds take {code(ALWAYS)}; those marked *block* also {code(OF_BLOCK)}. With `temporal: attention` each "
        f"takes {code(OF_ATTENTION)}. These need the rows and columns of frames: {grids}."
    ]


def code(names: Iterable[str]) -> str:
    """Return names as code, in a list."""
    return ", ".join(f"`{name}`" for name in names)


# --- pages ------------------------------------------------------------------------------------------------------------

TABLES: dict[str, Callable[[Mapping[str, Any], str], list[str]]] = {
    "costs": costs_table,
    "kinds": kinds_table,
    "always": always,
    **{f"settings of {name}": settings_table(config) for name, config in CONFIGS.items()},
}


def filled(text: str, facts: Mapping[str, Any]) -> str:
    """Return a page with what is between `<!-- NAME -->` and `<!-- end -->` made anew, and the costs of families."""

    def table(match: re.Match[str]) -> str:
        return "\n".join([match[1], "", *TABLES[match[2]](facts, match[3]), "", "<!-- end -->"])

    text = with_flagship(with_costs(text, facts), facts)
    return re.sub(r"(<!-- ([\w ]+) -->)\n(.*?)<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    facts = json.loads(TABLE.read_text(encoding="utf-8"))
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), facts), encoding="utf-8")
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
