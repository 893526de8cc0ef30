"""Outputs of a frozen part: computed once, shared by runs, made again where a file is not what its name says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hybridvideo.engine.training import frozen as frozen_part
from hybridvideo.engine.training.frozen import prune, using
from hybridvideo.errors import Preempted, TooMuchBadData
from tests.engine.training.runs import run, same, settings, weights

FROZEN: dict[str, Any] = {
    "clip": {"train_start": "centre"}, "augment": {"crop": "none"}, "train": {"epochs": 1},
    "model": {"changes": {"stem": {"frozen": True}}},
}  # fmt: skip


def outputs(cache: Path) -> dict[str, int]:
    """Name of each output and when it was last used."""
    return {file.name: file.stat().st_mtime_ns for file in cache.glob("*.safetensors")}


def count_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of clips of each batch that is computed from now on."""
    computed: list[int] = []
    real = frozen_part.store

    def counted(model: Any, batch: dict[str, Any], files: Any) -> Any:
        computed.append(len(batch["index"]))
        return real(model, batch, files)

    monkeypatch.setattr(frozen_part, "store", counted)
    return computed


def test_training_on_cached_outputs_of_a_frozen_stem_equals_training_on_clips(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = {
        "clip": {"train_start": "centre"}, "augment": {"crop": "none", "flip": 0.5, "contrast": [1.0, 2.0]},
        "model": {"changes": {"stem": {"frozen": True}, "drop_path": 0.0, "head": {"dropout": 0.0}}},
    }  # fmt: skip
    cached = run(tmp_path / "cached", settings(motion, **frozen, data={"cache": str(tmp_path / "cache")}))
    assert len(outputs(tmp_path / "cache")) == 2 * 2 * 24 + 8
    monkeypatch.setattr("hybridvideo.tasks.train.can_be_kept", lambda *arguments: False)
    plain = run(tmp_path / "plain", settings(motion, **frozen))
    for name, value in weights(plain).items():
        assert torch.allclose(value, weights(cached)[name], atol=1e-5), name


def test_ctrl_c_in_the_frozen_part_leaves_a_run_that_can_be_resumed(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, stored = settings(motion, **FROZEN), iter(range(100))
    real = frozen_part.store

    def interrupted(*arguments: Any) -> Any:
        if next(stored) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(frozen_part, "store", interrupted)
        with pytest.raises(Preempted, match="continue with --resume"):
            run(tmp_path / "a" / "run", plan)
    assert len(outputs(tmp_path / "a" / ".frozen")) == 10  # two batches of five
    assert same(weights(run(tmp_path / "a" / "run", plan, resume=True)), weights(run(tmp_path / "b" / "whole", plan)))


def test_another_seed_finds_what_the_first_run_computed(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "first", settings(motion, **FROZEN))
    computed = count_computed(monkeypatch)
    same_stem = {"weights": str(first), "changes": FROZEN["model"]["changes"]}
    run(tmp_path / "second", settings(motion, **{**FROZEN, "model": same_stem}, seed=1))
    assert computed == [] and len(outputs(tmp_path / ".frozen")) == 24 + 8


def test_an_empty_cut_or_foreign_file_is_made_again(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = settings(motion, **FROZEN)
    first = run(tmp_path / "first", plan)
    files = sorted((tmp_path / ".frozen").glob("*.safetensors"))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:-4])
    save_file({"frozen": torch.zeros(3)}, files[2])
    shutil.copy(files[4], files[3])  # the output of another video
    files[5].unlink()
    computed = count_computed(monkeypatch)
    assert same(weights(first), weights(run(tmp_path / "again", plan)))
    assert sum(computed) == 5


def test_all_variants_are_one_progress(motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    totals: list[tuple[str, int]] = []
    real = frozen_part.progress

    def noted(label: str, total: int, shown: bool) -> Any:
        totals.append((label, total))
        return real(label, total, shown)

    monkeypatch.setattr(frozen_part, "progress", noted)
    variants = {**FROZEN, "augment": {"crop": "none", "flip": 0.5, "contrast": [1.0, 2.0]}}
    run(tmp_path / "run", settings(motion, **variants))
    assert totals == [("frozen part, training", 4 * 24), ("frozen part, validation", 8)]


def test_videos_of_which_none_can_be_read_are_one_line(motion: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(motion, data)
    for part, name in (("val", "validation"), ("train", "training")):
        for file in (data / part).rglob("*.*"):
            file.write_bytes(b"no video")
        with pytest.raises(TooMuchBadData, match=rf"none of the \d+ {name} videos can be read \(first: .*unreadable"):
            run(tmp_path / part, settings(data, **FROZEN, data={"max_bad": 1.0}))


def test_the_longest_unused_outputs_go_first_and_none_while_others_use_them(tmp_path: Path) -> None:
    for age in range(4):
        file = tmp_path / f"{age}.safetensors"
        file.write_bytes(bytes(100))
        os.utime(file, (1000 - age, 1000 - age))
    (tmp_path / ".x.safetensors.123.new").write_bytes(bytes(100))
    with using(tmp_path, largest=None), using(tmp_path, largest=150):
        pass
    assert len(outputs(tmp_path)) == 4
    with using(tmp_path, largest=250):
        pass
    assert set(outputs(tmp_path)) == {"0.safetensors", "1.safetensors"}
    assert not list(tmp_path.glob("*.new")) and not list(tmp_path.glob(".*.new"))
    prune(tmp_path, 0)
    assert outputs(tmp_path) == {}
