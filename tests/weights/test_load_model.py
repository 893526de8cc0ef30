"""Checkpoint folders are complete or absent; loading is strict."""

from __future__ import annotations

import itertools
import json
import os
import stat
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from hybridvideo.config.data import ClipConfig, FrameConfig, Preprocessing
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.folders import replacing_folder, settle
from hybridvideo.models import create_model
from hybridvideo.models.card import ModelCard, write_checkpoint
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.weights.find_checkpoint import find_checkpoint
from hybridvideo.weights.load_model import load_model
from hybridvideo.weights.load_weights import load_weights
from tests.kills import killed_after

SMALL = {"frames": 4, "height": 32, "width": 32, "stem": {"widths": [4, 8]}}


def small(num_classes: int = 3, **changes: object) -> Hybrid:
    model = create_model("hybrid", num_classes, **{**SMALL, "position": "absolute", **changes})
    assert isinstance(model, Hybrid)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def saved(folder: Path, model: Hybrid) -> Path:
    labels = tuple(f"class {i}" for i in range(model.num_classes))
    preprocessing = Preprocessing(ClipConfig(4, interval=0.5), FrameConfig(32, 32), model.normalisation)
    card = ModelCard("hybrid", labels, model.settings(), preprocessing, EvalConfig(clips=3))
    with replacing_folder(folder) as new:
        write_checkpoint(new, model.state_dict(), card)
    return folder


def test_a_model_comes_back_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    model = small().eval()
    loaded = load_model(saved(tmp_path / "c", model))
    x = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(loaded(x), model(x)) and not loaded.training
    assert loaded.labels == ("class 0", "class 1", "class 2")
    assert loaded.preprocessing is not None and loaded.preprocessing.clip.interval == 0.5
    assert loaded.card.eval.clips == 3


def test_a_checkpoint_needs_no_weights_file_of_its_stem(tmp_path: Path) -> None:
    weights = tmp_path / "stem.pth"
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), weights)
    stem = {
        "name": "torchvision/squeezenet1_1",
        "stride": 8,
        "weights": str(weights),
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    folder = saved(tmp_path / "c", small(stem=stem))
    weights.unlink()
    assert load_model(folder).normalisation.mean == (0.5, 0.5, 0.5)


def test_a_kill_at_any_step_leaves_the_old_or_the_new_checkpoint(tmp_path: Path) -> None:
    for steps in itertools.count():
        folder = tmp_path / f"{steps}" / "last"
        write(folder, "old")
        with killed_after(steps) as kill:
            write(folder, "new")
        looked = find_checkpoint(folder)
        assert (looked / "file").read_text() in ("old", "new"), steps
        before = sorted(folder.parent.rglob("*"))
        find_checkpoint(folder)
        assert sorted(folder.parent.rglob("*")) == before  # who reads changes nothing
        settle(folder)
        assert {path.name for path in folder.parent.iterdir()} == {"last"}
        assert (folder / "file").read_text() in ("old", "new")
        write(folder, "newest")
        assert (folder / "file").read_text() == "newest"
        if not kill.happened:
            break
    assert steps > 10


def write(folder: Path, text: str) -> None:
    with replacing_folder(folder) as new:
        (new / "model.json").write_text(text)
        (new / "file").write_text(text)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    write(folder, "old")
    with pytest.raises(EnvironmentFault, match=r"cannot write .*last: no space"), replacing_folder(folder) as new:
        (new / "half").write_text("half")
        raise OSError("no space")
    assert (folder / "file").read_text() == "old" and {path.name for path in tmp_path.iterdir()} == {"last"}


def test_files_of_a_checkpoint_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = saved(tmp_path / "c", small())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"model.safetensors": 0o640, "model.json": 0o640, ".complete": 0o640}


def test_a_full_disk_is_one_line_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("hybridvideo.models.card.save_file", full)
    with pytest.raises(EnvironmentFault, match=r"cannot write .*No space left on device; free some space"):
        saved(tmp_path / "c", small())


def test_who_reads_beside_a_writer_always_gets_a_whole_checkpoint(tmp_path: Path) -> None:
    """Two models take turns in one folder; what is read is one of them, never parts of both, never nothing."""
    models = [small(3), small(5)]
    folder = saved(tmp_path / "c", models[0])
    stop = threading.Event()

    def keep_saving() -> None:
        for model in itertools.cycle(models):
            saved(folder, model)
            if stop.is_set():
                return

    writer = threading.Thread(target=keep_saving)
    writer.start()
    try:
        for _ in range(12):
            loaded = load_model(folder)
            state = models[0 if len(loaded.labels) == 3 else 1].state_dict()
            assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    finally:
        stop.set()
        writer.join()


def test_a_folder_without_a_checkpoint_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        find_checkpoint(tmp_path / "none")
    with pytest.raises(UserError, match="no complete checkpoint in"):
        find_checkpoint(tmp_path)
    folder = saved(tmp_path / "c", small())
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match="the checkpoint is damaged"):
        load_model(folder)


def test_strict_loading_names_what_does_not_fit(tmp_path: Path) -> None:
    model, state = small(), small().state_dict()
    report = load_weights(model, state)
    assert len(report.matched) == len(state) and not (report.missing or report.unexpected or report.resized)
    with pytest.raises(UserError, match=r"1 missing \(head.norm.bias\); build the model that"):
        load_weights(model, {name: value for name, value in state.items() if name != "head.norm.bias"})
    with pytest.raises(UserError, match=r"1 unexpected \(extra\)"):
        load_weights(model, {**state, "extra": torch.zeros(1)})
    with pytest.raises(UserError, match=r"1 of another shape \(head\.norm\.bias: \(5,\) -> \(8,\)\)"):
        load_weights(model, {**state, "head.norm.bias": torch.zeros(5)})
    with pytest.raises(UserError, match="head is 'new'; give strict, replace or drop"):
        load_weights(model, state, head="new")  # type: ignore[arg-type]


def test_a_classifier_of_another_label_set_is_an_error_unless_replaced() -> None:
    state = small(3).state_dict()
    with pytest.raises(UserError, match=r"has 3 classes, the model 5; .*head=replace"):
        load_weights(small(5), state)
    model = small(5)
    before = model.head.classifier.weight.clone()
    report = load_weights(model, state, head="replace")
    assert torch.equal(model.head.classifier.weight, before) and "head.norm.weight" in report.matched
    assert torch.equal(model.state_dict()["head.norm.bias"], state["head.norm.bias"])


def test_position_tables_of_another_size_are_resized_and_said_so() -> None:
    source, model = small(), small(frames=8, height=64)
    report = load_weights(model, source.state_dict())
    assert report.resized == ["position.space_CHW", "position.time_CT"]
    assert model.state_dict()["position.time_CT"].shape == (8, 8)


def test_weights_come_from_a_folder_or_a_file(tmp_path: Path) -> None:
    source = small()
    folder = saved(tmp_path / "c", source)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    for where in (folder, folder / "model.safetensors", tmp_path / "w.pth"):
        model = small()
        load_weights(model, where)
        assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_card_is_readable(tmp_path: Path) -> None:
    card = json.loads((saved(tmp_path / "c", small()) / "model.json").read_text())
    assert card["name"] == "hybrid" and card["settings"]["stem"]["widths"] == [4, 8]
