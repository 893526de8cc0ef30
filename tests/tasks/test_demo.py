"""The demo refuses what it cannot do before it renders anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridvideo.errors import UserError
from hybridvideo.tasks.demo import run_demo


def test_a_demo_without_a_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seeds is 0; give 1 or more"):
        run_demo(str(tmp_path / "demo"), seed=0, seeds=0)
    assert not list(tmp_path.iterdir())
