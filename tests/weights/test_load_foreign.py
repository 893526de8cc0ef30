"""A foreign checkpoint becomes a model with all that belongs to its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models.video.swin_transformer import SwinTransformer3d
from transformers import TimesformerConfig, TimesformerForVideoClassification

import hybridvideo as hv
from hybridvideo.config.data import Normalisation
from hybridvideo.errors import UserError
from hybridvideo.models.card import ModelCard, Origin, read_card, write_checkpoint
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.load_foreign import Wanted, load_foreign

SMALL = {
    "image_size": 32, "patch_size": 16, "num_frames": 4, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 32,
}  # fmt: skip
CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


def randomised(model: Any) -> Any:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def timesformer(folder: Path, **changes: Any) -> TimesformerForVideoClassification:
    """A folder as transformers writes it, and the model in it."""
    model = randomised(TimesformerForVideoClassification(TimesformerConfig(**{**SMALL, "num_labels": 3, **changes})))
    model.save_pretrained(folder)
    return model


def swin3d(num_classes: int) -> SwinTransformer3d:
    network = SwinTransformer3d([2, 4, 4], 8, [2, 1, 1, 1], [1, 2, 2, 4], [2, 3, 3], num_classes=num_classes)
    return randomised(network)


@torch.no_grad()
def difference(ours: VideoModel, theirs: Any) -> float:
    logits = theirs(CLIP.transpose(1, 2)).logits if hasattr(theirs, "config") else theirs(CLIP)
    return float((ours(CLIP) - logits).abs().max())


def test_a_hugging_face_folder_becomes_a_model_with_the_same_logits(tmp_path: Path) -> None:
    theirs = timesformer(tmp_path, id2label={0: "jump", 1: "run", 2: "sit"})
    processor = {"image_mean": [0.3] * 3, "image_std": [0.4] * 3, "size": {"shortest_edge": 40}, "crop_size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = hv.load_model(tmp_path)
    assert difference(model, theirs) < 1e-5 and not model.training
    assert model.card.name == "timesformer_base" and model.card.settings["heads"] == 4  # not seen in the tensors
    assert model.labels == ("jump", "run", "sit")
    prep = model.preprocessing
    assert prep is not None and prep.normalisation == model.normalisation == Normalisation((0.3,) * 3, (0.4,) * 3)
    assert (prep.clip.frames, prep.clip.stride) == (4, 32) and prep.frame.short_side == 40
    assert (prep.frame.height, prep.frame.width) == (32, 32)
    assert (model.card.eval.clips, model.card.eval.crops, model.card.eval.average) == (1, 3, "logits")
    assert model.card.origin.source == str(tmp_path) and len(model.card.origin.sha256) == 64


def test_without_a_processor_the_normalisation_is_what_was_published_not_a_class_default(tmp_path: Path) -> None:
    timesformer(tmp_path)
    assert hv.load_model(tmp_path).normalisation.mean == (0.45, 0.45, 0.45)


def test_a_bare_file_becomes_a_model_by_its_tensors_alone(tmp_path: Path) -> None:
    theirs = swin3d(400)
    torch.save({"state_dict": theirs.state_dict(), "meta": {"epoch": 30}}, tmp_path / "w.pth")
    model, card, report = load_foreign(tmp_path / "w.pth", Wanted(frames=4, size=32))
    assert difference(model.eval(), theirs) < 1e-5
    assert card.name == "video_swin_tiny" and card.settings["depths"] == [2, 1, 1, 1] and card.settings["frames"] == 4
    assert card.labels == hv.kinetics400_labels()
    assert card.preprocessing.frame.height == 32 and card.preprocessing.clip.frames == 4
    assert report.notes[0] == "took state_dict" and card.origin is not None and card.origin.notes == tuple(report.notes)
    assert report.notes[-1] == "classes: assumed to be those of Kinetics-400, in alphabetical order"
    assert hv.load_model(tmp_path / "w.pth").input_shape == (3, 32, 224, 224)


def test_classes_without_names_are_numbered_and_may_be_given() -> None:
    state = swin3d(3).state_dict()
    assert load_foreign(state)[1].labels == ("class 0", "class 1", "class 2")
    assert load_foreign(state, Wanted(labels=("a", "b", "c")))[1].labels == ("a", "b", "c")
    with pytest.raises(UserError, match="2 labels for 3 classes"):
        load_foreign(state, Wanted(labels=("a", "b")))


def test_torchvision_weights_bring_their_classes_and_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    state = swin3d(400).state_dict()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: state)
    model = hv.load_model("torchvision:swin3d_t")
    prep = model.preprocessing
    assert prep is not None and prep.clip.interval == pytest.approx(1 / 15) and prep.clip.stride is None
    assert prep.frame.short_side == 256 and model.card.eval.clips == 12
    assert model.labels is not None and model.labels[:2] == ("abseiling", "air drumming")
    assert model.card.origin.notes == ()  # nothing had to be assumed
    assert model.card.origin.source == "torchvision:swin3d_t"


def test_the_short_side_keeps_its_proportion_to_the_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    state = swin3d(400).state_dict()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: state)
    card = load_foreign("torchvision:swin3d_t", Wanted(size=112))[1]
    assert (card.preprocessing.frame.height, card.preprocessing.frame.short_side) == (112, 128)


def test_weights_without_a_classifier_say_how_to_train_one() -> None:
    state = {name: value for name, value in swin3d(3).state_dict().items() if not name.startswith("head.")}
    with pytest.raises(UserError, match=r"without a classifier: .*--model.head replace.*load_weights\(model, source"):
        load_foreign(state)


def test_an_unknown_layout_asks_for_the_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no layout known here .*hybridvideo convert SOURCE FOLDER --model NAME"):
        load_foreign({"a": torch.ones(1), "b": torch.ones(1)})
    ours = hv.create_model("video_swin_tiny", 3, dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
    settings = {"dim": 8, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1)}
    model, card, report = load_foreign(ours.state_dict(), Wanted("video_swin_tiny", settings))
    assert card.name == "video_swin_tiny" and model.num_classes == 3 and "own" in report.layout


def test_a_named_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"holds Video Swin .* weights, of video_swin_tiny, this model is a UniFormer"):
        load_foreign(swin3d(3).state_dict(), Wanted("uniformer_small"))
    with pytest.raises(UserError, match="no model 'video_swim_tiny'"):
        load_foreign(swin3d(3).state_dict(), Wanted("video_swim_tiny"))


def states() -> list[dict[str, Tensor]]:
    """Foreign state dicts of several layouts."""
    config = TimesformerConfig(**SMALL, num_labels=3)
    return [swin3d(3).state_dict(), TimesformerForVideoClassification(config).state_dict()]


@pytest.mark.parametrize("i", [0, 1])
def test_a_state_dict_that_lacks_any_tensor_is_one_line(i: int) -> None:
    state = states()[i]
    for name in state:
        if not name.endswith("relative_position_index") and "blocks.1" not in name:
            with pytest.raises(UserError):
                load_foreign({key: value for key, value in state.items() if key != name})


def test_cards_from_before_there_was_an_origin_are_read(tmp_path: Path) -> None:
    model = swin3d(3)
    _, card, _ = load_foreign(model.state_dict())
    write_checkpoint(tmp_path, {"a": torch.ones(1)}, card)
    assert read_card(tmp_path) == card and isinstance(read_card(tmp_path).origin, Origin)
    content = json.loads((tmp_path / "model.json").read_text())
    del content["origin"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    assert read_card(tmp_path).origin is None


def test_the_weights_file_of_a_checkpoint_is_that_checkpoint(tmp_path: Path) -> None:
    model, card, _ = load_foreign(swin3d(3).state_dict(), Wanted(labels=("a", "b", "c"), frames=4, size=32))
    write_checkpoint(tmp_path, model.state_dict(), card)
    again = hv.load_model(tmp_path / "model.safetensors")
    assert again.labels == ("a", "b", "c") and isinstance(again.card, ModelCard)
    assert load_file(tmp_path / "model.safetensors").keys() == again.state_dict().keys()


def test_foreign_weights_are_no_run_folder(tmp_path: Path) -> None:
    torch.save(swin3d(3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="is not a run folder, so it has no 'best' checkpoint"):
        hv.load_model(tmp_path / "w.pth", "best")
