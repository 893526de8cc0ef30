"""A model that was saved is the model that is loaded, with all that belongs to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hybridvideo as hv
from hybridvideo.config.data import ClipConfig, FrameConfig, Normalisation, Preprocessing
from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.models import card
from hybridvideo.models.contract import VideoModel

SMALL = {"num_frames": 4, "image_size": 32}


def micro(num_classes: int = 3) -> VideoModel:
    return hv.create_model("hybrid_micro", num_classes, **SMALL).eval()


def test_a_saved_model_gives_the_same_logits_when_it_is_loaded(tmp_path: Path) -> None:
    model, clip_BCTHW = micro(), torch.rand(2, 3, 4, 32, 32)
    model.save(tmp_path / "deep" / "mine", labels=["run", "walk", "sit"])
    loaded = hv.load_model(tmp_path / "deep" / "mine")
    assert torch.equal(loaded(clip_BCTHW), model(clip_BCTHW))
    assert loaded.labels == ("run", "walk", "sit") and loaded.card is not None and loaded.card.name == "hybrid_micro"
    assert loaded.preprocessing == Preprocessing(ClipConfig(4, stride=1), FrameConfig(32, 32), model.normalisation)


def test_what_came_with_the_weights_is_saved_with_them(tmp_path: Path) -> None:
    model = micro()
    model.preprocessing = Preprocessing(
        ClipConfig(4, interval=0.5), FrameConfig(32, 32), Normalisation((0,) * 3, (1,) * 3)
    )
    model.save(tmp_path / "first", labels=["a", "b", "c"])
    first = hv.load_model(tmp_path / "first")
    assert first.card is not None
    first.card = replace(first.card, eval=replace(first.card.eval, clips=7))
    first.save(tmp_path / "second")
    second = hv.load_model(tmp_path / "second")
    assert second.labels == ("a", "b", "c") and second.preprocessing == model.preprocessing
    assert second.card is not None and second.card.eval.clips == 7


def test_a_new_classifier_has_no_names_until_some_are_given(tmp_path: Path) -> None:
    model = micro()
    model.labels = ("a", "b", "c")
    model.reset_classifier(2)
    model.save(tmp_path / "mine")
    assert hv.load_model(tmp_path / "mine").labels == ("0", "1")
    with pytest.raises(UserError, match="3 labels for 2 classes; give one name for each class"):
        model.save(tmp_path / "mine", labels=["a", "b", "c"])


def test_saving_replaces_a_checkpoint_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    micro().save(folder)
    later = micro()
    later.save(folder)
    assert torch.equal(hv.load_model(folder).state_dict()["head.classifier.weight"], later.head.classifier.weight)
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="not a checkpoint; give another folder"):
        micro().save(tmp_path)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes.txt besides its checkpoint"):
        micro().save(folder)
    (folder / "notes.txt").unlink()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(card, "save_file", full)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        micro().save(folder)
    assert torch.equal(hv.load_model(folder).state_dict()["head.classifier.weight"], later.head.classifier.weight)
