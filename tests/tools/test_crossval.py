"""The folds of cross-validation."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hybridvideo.data.manifest import Manifest, Row

SPEC = importlib.util.spec_from_file_location("crossval", Path(__file__).parents[2] / "tools" / "crossval.py")
assert SPEC is not None and SPEC.loader is not None
crossval = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(crossval)


def manifest() -> Manifest:
    """60 videos in groups of 1 to 6, two classes in most groups."""
    rows = [Row(f"{i}.mp4", i % 2, f"g{i * i % 23}") for i in range(60)]
    return Manifest(tuple(rows), ("a", "b"), Path())


def test_a_group_is_never_in_two_folds() -> None:
    videos = manifest()
    for seed in range(5):
        folds = crossval.assign_folds(videos, 5, seed)
        for members in videos.groups().values():
            assert len({folds[row] for row in members}) == 1


def test_folds_are_of_like_size_and_differ_by_seed() -> None:
    videos = manifest()
    assignments = [crossval.assign_folds(videos, 4, seed) for seed in range(3)]
    for folds in assignments:
        sizes = [folds.count(fold) for fold in range(4)]
        assert max(sizes) - min(sizes) <= 4, sizes
    assert assignments[0] != assignments[1] and assignments[0] == crossval.assign_folds(videos, 4, 0)
