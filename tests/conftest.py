"""Fixtures for the whole suite."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Let signals count, in what tests start too, that nohup or a shell's background job would have ignored."""
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, default)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data next to the checkout; tests that need it are marked `shared` and skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared next to the checkout")
    return folder


@pytest.fixture(scope="session")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small videos: {train,val,test}/<class>/*.*, eight classes; 3, 1 and 1 of each."""
    from hybridvideo.data.synthetic import render_dataset

    folder = tmp_path_factory.mktemp("motion")
    render_dataset(folder, train=3, val=1, test=1, seed=0, workers=0)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutations", type=int, default=400, help="damaged files that test_fuzz.py tries")
