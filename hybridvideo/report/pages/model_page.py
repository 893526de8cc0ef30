"""A model's page: its drawing, its costs as a table, its settings."""

from __future__ import annotations

from pathlib import Path

from hybridvideo.report.markup import facts, figure, folded, preformatted, table
from hybridvideo.report.numbers import percent
from hybridvideo.report.page import Section, page, write_page
from hybridvideo.report.plots.network import Network, Part, network_svg

CAPTION = (
    "From top to bottom: stem, stages, head, and between them the shape of what they pass on, frames x rows x columns "
    "x channels. From left to right: what a part does in order. A dashed frame runs as often as written; lanes run "
    "side by side; an arrow on the right joins an earlier part to a later one. Bars: shares of the whole."
)


def model_page(path: str | Path, network: Network, about: dict[str, str], settings: str) -> Path:
    """Write the page. about: names and values to list; settings: the model's, as YAML."""
    _, frames, rows, columns = network.input
    sections = [
        Section("Drawing", (figure(network_svg(network), CAPTION),)),
        Section("Costs", (table(HEADER, [cells(part, network) for part in network.parts], numbers=(2, 3, 4, 5)),)),
        Section("About", (facts(about), folded("Settings", preformatted(settings)))),
    ]
    lead = (
        f"{frames} frames of {rows}x{columns}: {network.gmacs:.2f} GMACs a view, {network.parameters / 1e6:.2f} "
        "million parameters with 400 classes."
    )
    return write_page(path, page(network.name, lead, sections))


HEADER = ("part", "shape after it", "GMACs", "share", "parameters", "share")


def cells(part: Part, network: Network) -> list[str]:
    """The row of a part."""
    shape = "x".join(map(str, part.shape)) if part.shape else "classes"
    of_macs, of_numbers = part.gmacs / max(network.gmacs, 1e-9), part.parameters / max(network.parameters, 1)
    return [
        part.name,
        shape,
        f"{part.gmacs:.3f}",
        percent(of_macs),
        f"{part.parameters / 1e6:.3f} M",
        percent(of_numbers),
    ]
