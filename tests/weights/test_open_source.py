"""Where weights come from: files, folders, torchvision, Hugging Face; and what each says of them."""

from __future__ import annotations

import hashlib
import json
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.video import swin3d_t

from hybridvideo.config.data import Normalisation
from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.weights.open_source import is_ours, open_source
from hybridvideo.weights.source import Source
from hybridvideo.weights.torchvision_weights import open_torchvision, weights_named

STATE = {"a.weight": torch.ones(2, 2), "a.bias": torch.zeros(2), "b": torch.ones(1)}


def folder(path: Path, config: dict[str, Any], **files: dict[str, Any]) -> Path:
    """A Hugging Face folder with its JSON files."""
    path.mkdir(exist_ok=True)
    for name, content in {"config": config, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def names(source: Source) -> list[str]:
    return sorted(source.state)


def test_a_state_dict_is_a_source_as_it_is() -> None:
    source = open_source(STATE)
    assert source.where == "the state dict" and names(source) == sorted(STATE) and source.sha256() == ""


def test_a_file_is_a_source_with_its_digest(tmp_path: Path) -> None:
    torch.save({"model": STATE, "ema": STATE}, tmp_path / "w.pyth")
    source = open_source(str(tmp_path / "w.pyth"))
    assert source.where == str(tmp_path / "w.pyth") and names(source) == sorted(STATE)
    assert source.notes == ("took model (there are also ema)",)
    assert source.sha256() == hashlib.sha256((tmp_path / "w.pyth").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder_holds_its_weights_in_one_file(tmp_path: Path, name: str) -> None:
    folder(tmp_path, {})
    (save_file if name.endswith("safetensors") else torch.save)(STATE, tmp_path / name)
    source = open_source(tmp_path)
    assert names(source) == sorted(STATE) and source.files == (tmp_path / name,)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_hugging_face_folder_holds_its_weights_in_shards(tmp_path: Path, kind: str) -> None:
    folder(tmp_path, {})
    stem, save = ("model", save_file) if kind == "safetensors" else ("pytorch_model", torch.save)
    shards = {f"{stem}-0000{i}.{kind}": {key: STATE[key]} for i, key in enumerate(STATE)}
    for name, part in shards.items():
        save(part, tmp_path / name)
    index = {"weight_map": {key: name for name, part in shards.items() for key in part}}
    (tmp_path / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    source = open_source(tmp_path)
    assert names(source) == sorted(STATE) and len(source.files) == 3
    (tmp_path / f"{stem}-00001.{kind}").unlink()
    with pytest.raises(UserError, match="no weights file"):
        open_source(tmp_path)


def test_an_index_reaches_no_file_outside_its_folder(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "outside.safetensors")
    inside = folder(tmp_path / "hf", {})
    index = {"weight_map": dict.fromkeys(STATE, "../outside.safetensors")}
    (inside / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"no weights file .*hf.outside.safetensors"):
        open_source(inside)
    (inside / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match="is not an index of shards"):
        open_source(inside)


def test_a_folder_states_what_belongs_to_its_weights(tmp_path: Path) -> None:
    config = {
        "id2label": {"1": "jump", "0": "run"}, "num_frames": 8, "image_size": 64, "num_attention_heads": 2,
        "auto_map": {"AutoModel": "modeling.Model"},
    }  # fmt: skip
    processor = {
        "image_mean": [0.45] * 3, "image_std": [0.225] * 3, "do_normalize": True,
        "size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64},
    }  # fmt: skip
    save_file(STATE, folder(tmp_path, config, preprocessor_config=processor) / "model.safetensors")
    facts = open_source(tmp_path).facts
    assert facts.labels == ("run", "jump") and facts.size == (64, 64) and facts.short_side == 80
    assert facts.normalisation == Normalisation((0.45,) * 3, (0.225,) * 3)
    assert facts.changes == {"frames": 8, "height": 64, "width": 64, "heads": 2}


def test_what_a_folder_does_not_state_is_not_assumed(tmp_path: Path) -> None:
    save_file(STATE, folder(tmp_path, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}) / "model.safetensors")
    facts = open_source(tmp_path).facts
    assert facts.labels is None and facts.normalisation is None and facts.size is None and facts.changes == {}
    folder(tmp_path, {}, preprocessor_config={"size": 224, "crop_size": 224, "do_normalize": False})
    facts = open_source(tmp_path).facts
    assert facts.normalisation == Normalisation((0.0,) * 3, (1.0,) * 3)
    assert facts.size == (224, 224) and facts.short_side == 224
    (tmp_path / "preprocessor_config.json").unlink()
    folder(tmp_path, {"architecture": "swin_tiny", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}})  # timm's
    assert open_source(tmp_path).facts.normalisation == Normalisation((0.1,) * 3, (0.2,) * 3)


@pytest.mark.parametrize("config", [[], {"id2label": [1]}, {"id2label": {"a": "b"}}, {"image_size": "x"}])
def test_an_unusual_configuration_is_one_line(tmp_path: Path, config: Any) -> None:
    save_file(STATE, folder(tmp_path, config) / "model.safetensors")
    with pytest.raises(UserError, match=r"config\.json"):
        open_source(tmp_path)


def test_a_folder_without_weights_names_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has a config.json but no weights; expected model.safetensors or"):
        open_source(folder(tmp_path, {}))
    (tmp_path / "config.json").write_text("{")
    save_file(STATE, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is not JSON"):
        open_source(tmp_path)


def test_what_is_not_a_source_is_answered_with_the_kinds_of_sources() -> None:
    for source in ("https://example.org/w.pth", "jax:vit", "none.pth"):
        with pytest.raises(UserError, match=r"give a path"):
            open_source(source)


def test_only_folders_of_this_project_are_ours(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.touch()
    assert is_ours(tmp_path) and is_ours(tmp_path / "not there")
    assert not is_ours(file) and not is_ours("torchvision:swin3d_t") and not is_ours("hf:a/b") and not is_ours("timm:a")
    assert not is_ours(folder(tmp_path / "hf", {})) and not is_ours("none.pth") and not is_ours("https://example.org")


# --- torchvision -----------------------------------------------------------------------------------------------------


def test_torchvision_states_what_belongs_to_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def download(url: str, **options: Any) -> dict[str, torch.Tensor]:
        asked.append((url, options["weights_only"], options["check_hash"]))
        return swin3d_t(weights=None).state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    source = open_source("torchvision:swin3d_t")
    assert asked == [("https://download.pytorch.org/models/swin3d_t-7615ae03.pth", True, True)]
    facts = source.facts
    assert facts.labels is not None and len(facts.labels) == 400 and facts.labels[0] == "abseiling"
    assert facts.clip is not None and facts.clip.frames == 32 and facts.clip.interval == pytest.approx(1 / 15)
    assert facts.views is not None and (facts.views.clips, facts.views.crops) == (12, 1)
    assert facts.size == (224, 224) and facts.short_side == 256
    assert facts.normalisation == Normalisation()


@pytest.mark.parametrize(
    ("name", "mean", "size", "short_side", "clips"),
    [
        ("r3d_18", 0.43216, (112, 112), 128, 5),
        ("mvit_v2_s.KINETICS400_V1", 0.45, (224, 224), 256, 5),
        ("swin_t.IMAGENET1K_V1", 0.485, (224, 224), 232, None),
    ],
)
def test_other_models_of_torchvision_have_their_own(
    monkeypatch: pytest.MonkeyPatch, name: str, mean: float, size: tuple[int, int], short_side: int, clips: int | None
) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **options: STATE)
    facts = open_torchvision(f"torchvision:{name}").facts
    assert facts.normalisation is not None and facts.normalisation.mean[0] == pytest.approx(mean)
    assert facts.size == size and facts.short_side == short_side
    assert (facts.views.clips if facts.views else None) == clips


def test_weights_that_torchvision_does_not_have_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no model 'swin3d_x' \(did you mean 'swin3d_"):
        weights_named("swin3d_x")
    with pytest.raises(UserError, match=r"no weights 'KINETICS' of swin3d_b \(did you mean 'KINETICS400_"):
        weights_named("swin3d_b.KINETICS")
    assert weights_named("swin3d_b.KINETICS400_IMAGENET22K_V1").name == "KINETICS400_IMAGENET22K_V1"


@pytest.mark.parametrize("error", [urllib.error.URLError("no route to host"), RuntimeError("invalid hash value")])
def test_the_error_for_torchvision_offline_has_the_way_around_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(url: str, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    with pytest.raises(EnvironmentFault, match=r"cannot be downloaded .*download https://download.*give its path"):
        open_source("torchvision:swin3d_t")


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_repository_is_read_without_its_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    import huggingface_hub

    patterns: list[str] = []
    folder(tmp_path, {"num_frames": 8})
    if kind == "safetensors":
        save_file(STATE, tmp_path / "model.safetensors")

    def download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo, revision) == ("owner/repo", "v1")
        patterns.extend(allow_patterns)
        if kind == "bin" and any(pattern.endswith(".bin") for pattern in allow_patterns):
            torch.save(STATE, tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = open_source("hf:owner/repo@v1")
    assert names(source) == sorted(STATE) and source.where == "hf:owner/repo@v1"
    assert source.facts.changes == {"frames": 8}
    assert not any(pattern.endswith(".py") or pattern == "*" for pattern in patterns)
    assert ("pytorch_model*.bin" in patterns) == (kind == "bin")  # pickles only where there is nothing better


def test_a_repository_without_weights_or_of_a_wrong_name_is_a_users_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder(tmp_path / "hf", {})))
    with pytest.raises(UserError, match="hf:owner/repo has no weights that can be read"):
        open_source("hf:owner/repo")
    monkeypatch.undo()
    with pytest.raises(UserError, match="hf:no//repo: no such repository"):
        open_source("hf:no//repo")


def test_the_error_for_hugging_face_offline_has_the_way_around_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"hf:owner/repo cannot be downloaded .*huggingface.co/owner/repo, copy"):
        open_source("hf:owner/repo")


# --- timm -------------------------------------------------------------------------------------------------------------


def test_timm_states_what_belongs_to_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    build, asked = timm.create_model, []

    def pretrained(name: str, pretrained: bool) -> Any:
        asked.append((name, pretrained))
        return build(name)

    monkeypatch.setattr(timm, "create_model", pretrained)
    source = open_source("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert asked == [("vit_tiny_patch16_224.augreg_in21k_ft_in1k", True)] and "blocks.0.attn.qkv.weight" in source.state
    facts = source.facts
    assert facts.labels is not None and len(set(facts.labels)) == 1000 and facts.labels[0].startswith("tench")
    assert facts.normalisation == Normalisation((0.5,) * 3, (0.5,) * 3)
    assert facts.size == (224, 224) and facts.short_side == 249


def test_weights_that_timm_does_not_have_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no network 'resnet5' \(did you mean 'resnet"):
        open_source("timm:resnet5")
    with pytest.raises(UserError, match=r"no weights 'a1_in1' of resnet50 \(did you mean 'a1_in1k'"):
        open_source("timm:resnet50.a1_in1")
    with pytest.raises(UserError, match="no network"):
        open_source("timm:../../etc/passwd")


def test_the_error_for_timm_offline_has_the_way_around_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = r"timm:resnet10t cannot be downloaded .*https://huggingface.co/timm/resnet10t.c3_in1k, copy"
    with pytest.raises(EnvironmentFault, match=message):
        open_source("timm:resnet10t")
