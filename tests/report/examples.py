"""Small results as jobs write them, for the tests of the pages."""

from __future__ import annotations

import html.parser
from typing import Any

import numpy as np

from hybridvideo.report.contact_sheet import Sample
from hybridvideo.report.results import Results

MOTIONS = ["anticlockwise", "approach", "clockwise", "down", "left", "recede", "right", "up"]


def results(labels: list[str], confusion: Any, **changes: Any) -> Results:
    return Results.of(results_json(labels, confusion, **changes))


def results_json(labels: list[str], confusion: Any, **changes: Any) -> dict[str, Any]:
    """The content of a results.json."""
    counts = np.asarray(confusion)
    share = float(np.trace(counts) / max(counts.sum(), 1))
    bounds = [max(0.0, share - 0.1), min(1.0, share + 0.05)]
    measures = {name: share for name in ("top1", "top5", "mean_class_accuracy")}
    return {
        **measures,
        **{f"{name}_interval": bounds for name in measures},
        "num_videos": int(counts.sum()),
        "num_failed": 0,
        "protocol": {"clips": 4, "crops": 1, "frame": {"height": 64, "width": 64}},
        "labels": labels,
        "confusion": counts.tolist(),
        "per_class": [
            {"label": label, "videos": int(row.sum()), "accuracy": float(row[i] / row.sum()) if row.sum() else None}
            for i, (label, row) in enumerate(zip(labels, counts, strict=True))
        ],
        "failures": [],
        "seconds": 2.0,
        "videos_per_second": 20.0,
        "model": "hybrid_micro",
        "checkpoint": "run/checkpoints/last",
        **changes,
    }


def metrics(epochs: int = 3) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"kind": "start"}]
    for epoch in range(epochs):
        step = 10 * (epoch + 1)
        rows.append({"kind": "step", "step": step - 5, "epoch": epoch, "loss": 2.0 / step, "lr": 1e-3,
                     "grad_norm": 0.7, "clips_per_second": 85.0, "wait_share": 0.1})  # fmt: skip
        rows.append({"kind": "epoch", "epoch": epoch, "step": step, "train_loss": 1.7 / step, "val_loss": 1.5,
                     "val_top1": 0.4 + epoch / 10, "val_top5": 0.9, "val_mean_class_accuracy": 0.4,
                     "seconds": 2.2 * (epoch + 1), "clips_seen": 178 * (epoch + 1), "bad_clips": 0,
                     "clips_per_second": 80.0})  # fmt: skip
    return [*rows, {"kind": "end"}]


def samples(count: int = 3, size: tuple[int, int] = (32, 32)) -> list[Sample]:
    frames_TCHW = np.random.default_rng(0).integers(0, 255, (12, 3, *size), dtype=np.uint8)
    return [Sample(f"videos/{i:02d}.mp4", frames_TCHW, "left", "left" if i % 2 else "right", 0.9) for i in range(count)]


def prediction(path: str, label: str = "left", score: float = 0.9) -> dict[str, Any]:
    return {"path": path, "status": "ok", "reason": "", "label": label, "score": score,
            "topk_labels": [label, "right"], "topk_scores": [score, 1 - score]}  # fmt: skip


def unreadable(path: str, reason: str = "the file is empty") -> dict[str, Any]:
    return {"path": path, "status": "unreadable", "reason": reason, "label": None, "score": None,
            "topk_labels": None, "topk_scores": None, "start": None, "end": None}  # fmt: skip


def scanned(path: str, status: str = "ok", reason: str = "", **changes: Any) -> dict[str, Any]:
    bad = status not in ("ok", "partial", "short")
    facts = {"promised": 10, "decoded": 10, "codec": "h264", "pixel_format": "yuv420p", "width": 64, "height": 48,
             "fps": 25.0, "duration": 0.4, "regular": True, "rotation": 0, "bytes": 1000, "mtime_ns": 1,
             "checksum": path, "seconds": 0.1}  # fmt: skip
    return {"path": path, "status": status, "reason": reason, **(dict.fromkeys(facts) if bad else facts)} | changes


class Page(html.parser.HTMLParser):
    """What a browser sees: tags with their attributes, and the text outside style and script."""

    NEVER_CLOSED = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.NEVER_CLOSED:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data
