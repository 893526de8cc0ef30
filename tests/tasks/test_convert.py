"""From a foreign checkpoint to classes, accuracy and features of real files: by a converted folder, or directly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torchvision.models.video.swin_transformer import SwinTransformer3d
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

import hybridvideo as hv
from hybridvideo import cli
from hybridvideo.data import synthetic
from hybridvideo.files import locked
from hybridvideo.tasks.support.weights_argument import results_folder
from tests.engine.training.runs import run, settings

CLASSES = sorted(synthetic.CLASSES)


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as mmaction-like programs wrap it, in torchvision's layout."""
    network = randomised(SwinTransformer3d([2, 4, 4], 8, [1, 1, 1, 1], [1, 2, 2, 4], [2, 3, 3], num_classes=8))
    path = tmp_path_factory.mktemp("swin") / "best model.pth"
    torch.save({"state_dict": network.state_dict(), "meta": {"epoch": 30}}, path)
    return path


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, use_mean_pooling=True, id2label=dict(enumerate(CLASSES)),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("hf") / "videomae-tiny"
    randomised(VideoMAEForVideoClassification(config)).save_pretrained(folder)
    processor = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3, "size": {"shortest_edge": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def randomised(model: Any) -> Any:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def call(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def labels_file(folder: Path) -> Path:
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    return folder / "labels.txt"


def converted(swin: Path, folder: Path) -> Path:
    out = folder / "converted"
    assert call("convert", swin, out, "--labels", labels_file(folder), "--frames", 4, "--size", 32) == 0
    return out


def test_what_travels_is_written_and_printed(swin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = converted(swin, tmp_path)
    said = capsys.readouterr().out
    for part in (
        "tensors loaded, 0 missing, 0 unexpected; layout: Video Swin (torchvision swin3d)", "took state_dict",
        "model       video_swin_tiny, ", "short side 37, crop 32 x 32", "classes     8: ", "12 x 1 (clips x crops)",
    ):  # fmt: skip
        assert part in said, said
    card = json.loads((out / "model.json").read_text())
    assert card["origin"]["source"] == str(swin) and card["labels"] == CLASSES and card["settings"]["frames"] == 4
    assert {path.name for path in out.iterdir()} == {"model.json", "model.safetensors", ".complete"}


def test_a_converted_folder_evaluates_predicts_and_extracts(swin: Path, motion: Path, tmp_path: Path) -> None:
    out = converted(swin, tmp_path)
    few = ("--eval.clips", 2)
    assert call("evaluate", out, "--data.manifest", motion / "test", "--data.workers", 0, *few) == 0
    results = json.loads((out / "evaluation-test-2x1" / "results.json").read_text())
    assert results["num_videos"] == 8 and results["num_failed"] == 0 and 0 <= results["top1"] <= 1
    assert call("predict", out, motion / "test", "--workers", 0, *few) == 0
    predicted = rows_of(out / "predictions" / "predictions.parquet")
    assert len(predicted) == 8 and all(row["label"] in CLASSES for row in predicted)
    assert call("extract", out, motion / "test", "--workers", 0, *few) == 0
    assert len(rows_of(out / "features" / "features.parquet")[0]["feature"]) == 64


def test_foreign_weights_are_used_directly_and_give_the_same(
    hugging_face: Path, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--eval.clips", 1, "--eval.crops", 1)
    assert call("convert", hugging_face, "converted") == 0
    for source, out in ((hugging_face, "direct.parquet"), ("converted", "converted.parquet")):
        assert call("predict", source, motion / "test", "--workers", 0, "--out", out, *few) == 0
    direct, own = rows_of(tmp_path / "direct.parquet"), rows_of(tmp_path / "converted.parquet")
    assert [row["topk_scores"] for row in direct] == [row["topk_scores"] for row in own]
    notes = json.loads(pq.read_schema(tmp_path / "direct.parquet").metadata[b"hybridvideo"])
    assert notes["checkpoint"] == str(hugging_face) and len(notes["weights_sha256"]) == 64
    assert notes["preprocessing"]["normalisation"]["mean"] == [0.4] * 3


def test_results_of_foreign_weights_go_below_runs_and_what_was_assumed_is_reported(
    hugging_face: Path, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    few = ("--eval.clips", 1, "--eval.crops", 1)
    assert call("predict", hugging_face, motion / "test", "--workers", 0, *few) == 0
    assert f"{hugging_face}: clip, views: as published of videomae_base on Kinetics-400" in capsys.readouterr().err
    assert call("extract", hugging_face, motion / "test", "--workers", 0, *few) == 0
    assert call("evaluate", hugging_face, "--data.manifest", motion / "test", "--data.workers", 0, *few) == 0
    folder = tmp_path / "runs" / "foreign" / "videomae-tiny"
    assert {path.name for path in folder.iterdir()} == {"predictions", "features", "evaluation-test-1x1"}
    results = json.loads((folder / "evaluation-test-1x1" / "results.json").read_text())
    assert results["checkpoint"] == str(hugging_face)


def test_each_source_has_a_folder_of_its_name(swin: Path, tmp_path: Path) -> None:
    assert results_folder("torchvision:swin3d_t") == Path("runs/foreign/torchvision-swin3d_t")
    assert results_folder("hf:owner/repo@v1") == Path("runs/foreign/hf-owner-repo-v1")
    assert results_folder(str(swin)) == Path("runs/foreign/best-model")
    assert results_folder(str(tmp_path)) == tmp_path


def test_training_starts_from_foreign_weights_with_their_normalisation(
    hugging_face: Path, motion: Path, tmp_path: Path
) -> None:
    changes = {"dim": 16, "depth": 2, "heads": 4, "mlp_ratio": 2.0}
    model = {"name": "videomae_base", "changes": changes, "weights": str(hugging_face), "head": "drop"}
    wanted = settings(motion, train={"epochs": 1}, frame={"height": 32, "width": 32})
    values = {**vars(wanted), "model": type(wanted.model)(**model)}
    trained = hv.load_model(run(tmp_path / "run", type(wanted)(**values)))
    assert trained.normalisation.mean == (0.4, 0.4, 0.4) and trained.labels == tuple(CLASSES)


def test_a_folder_is_replaced_only_when_asked_and_only_a_checkpoint(
    swin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = converted(swin, tmp_path)
    before = (out / "model.json").read_bytes()
    assert call("convert", swin, out) == 2
    assert "holds a checkpoint already; add --overwrite" in capsys.readouterr().err
    assert (out / "model.json").read_bytes() == before
    assert call("convert", swin, out, "--overwrite", "--frames", 8, "--size", 32) == 0
    assert json.loads((out / "model.json").read_text())["settings"]["frames"] == 8
    (out / "predictions").mkdir()
    assert call("convert", swin, out, "--overwrite") == 2
    assert "holds predictions besides its checkpoint" in capsys.readouterr().err and (out / "predictions").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    assert call("convert", swin, tmp_path / "photos", "--overwrite") == 2
    assert "is not a checkpoint; give another folder" in capsys.readouterr().err
    assert (tmp_path / "photos/a.jpg").exists()


def test_what_cannot_be_converted_leaves_no_folder(
    swin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headless = {"model": {key: value for key, value in torch.load(swin)["state_dict"].items() if "head" not in key}}
    torch.save(headless, tmp_path / "headless.pth")
    (tmp_path / "text.pth").write_text("no weights")
    out = tmp_path / "out"
    for source, options, message in [
        (tmp_path / "headless.pth", (), "without a classifier"),
        (tmp_path / "text.pth", (), "it is text, not weights"),
        (tmp_path / "none.pth", (), "no weights file"),
        (swin, ("--labels", "kinetics400"), "400 labels for 8 classes"),
        (swin, ("--changes.depht", "3"), "did you mean 'depths'?"),
        (swin, ("--model", "uniformer_small"), "this model is a UniFormer"),
        (converted(swin, tmp_path), (), "is a checkpoint of this project already"),
    ]:
        capsys.readouterr()
        assert call("convert", source, out, *options) == 2, message
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_settings_of_the_model_are_changed_one_by_one(swin: Path, tmp_path: Path) -> None:
    assert call("convert", swin, tmp_path / "o", "--frames", 4, "--size", 32, "--changes.drop_path", "0.3") == 0
    assert json.loads((tmp_path / "o" / "model.json").read_text())["settings"]["drop_path"] == 0.3


def test_one_conversion_at_a_time_into_a_folder(swin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / ".out.lock", "convert"):
        assert call("convert", swin, tmp_path / "out") == 2
    assert "convert, process" in capsys.readouterr().err and not (tmp_path / "out").exists()
