"""Settings that several jobs share are written once, and are found under the names they always had."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

import hybridvideo
from hybridvideo.config.data import DataConfig, EvaluateData
from hybridvideo.config.jobs import Compute, Decoding, Job, Reading
from hybridvideo.config.training import TrainConfig, TrainRun
from hybridvideo.errors import UserError
from hybridvideo.parsing import parsed

PACKAGE = Path(hybridvideo.__file__).parent


@pytest.mark.parametrize(
    "written",
    [r"(deadline|DEADLINE)\b[^=\n]* = [\d.]+", r": Precision = \"", r"\bworkers: int = \d", r"\bdevice: str = \""],
)
def test_a_default_of_reading_or_computing_is_written_once(written: str) -> None:
    places = [
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for _ in re.finditer(written, file.read_text())
    ]
    assert places == ["config/jobs.py"]


def test_the_data_of_a_run_is_a_reading_with_its_keys_in_their_order() -> None:
    names = " ".join(field.name for field in fields(DataConfig))
    assert names == "train val root labels order workers deadline quarantine bad max_bad cache"
    assert isinstance(DataConfig(), Reading) and isinstance(EvaluateData(), Reading)
    assert DataConfig("a", "b").val == "b" and EvaluateData("list.csv").manifest == "list.csv"
    old = parsed(TrainRun, {"data": {"train": "x", "workers": 3, "deadline": 9, "quarantine": "q.parquet"}})
    assert (old.data.workers, old.data.deadline, old.data.quarantine) == (3, 9.0, "q.parquet")


def test_defaults_are_the_same_everywhere() -> None:
    for reading in (DataConfig(), EvaluateData()):
        assert (reading.workers, reading.deadline) == (Reading.workers, Reading.deadline) == (2, 120.0)
    assert TrainRun().device == Compute.device and TrainConfig().precision == Compute.precision


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Decoding(workers=-1), "workers is -1"),
        (lambda: Reading(deadline=0.0), "deadline is 0.0"),
        (lambda: Reading(deadline=float("nan")), "deadline is nan"),
        (lambda: DataConfig(workers=-1), "data.workers is -1"),
        (lambda: EvaluateData(max_bad=1.5), "data.max_bad is 1.5"),
        (lambda: Job(max_bad=-0.1), "max_bad is -0.1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_its_section(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}; give"):
        make()
