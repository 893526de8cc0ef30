"""The doctor: a healthy installation is ready, and whatever breaks is a finding with its remedy, not a crash."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

from hybridvideo.tasks import doctor as clinic
from hybridvideo.tasks.doctor import Finding


def test_a_healthy_installation_is_ready(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # torchcodec is optional, and its process imports torch once more: seconds.
    monkeypatch.setattr(clinic, "CHECKS", [check for check in clinic.CHECKS if check is not clinic.torchcodec])
    assert clinic.run_doctor() == 0
    said = capsys.readouterr().out
    for name in ("Python", "torch", "torchvision", "PyAV", "decord", "ffmpeg", "cpu", "cuda", "disk"):
        assert name in said
    assert "Ready" in said


def test_a_fault_ends_with_4_and_shows_its_complete_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remedy = "pip install " + " ".join(f"'package{i}[extra]'" for i in range(12))
    monkeypatch.setattr(clinic, "CHECKS", (lambda: Finding("thing", "fault", "broken [red]", remedy),))
    assert clinic.run_doctor() == 4
    said = capsys.readouterr().out
    assert f"thing: {remedy}\n" in said and "broken [red]" in said and "1 fault." in said


def test_what_is_only_optional_is_not_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clinic, "CHECKS", (lambda: Finding("decord", "optional", "not installed", "pip install x"),))
    assert clinic.run_doctor() == 0


def test_a_broken_torch_is_a_finding_in_every_check_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert clinic.torch_works().state == clinic.torchvision_matches().state == "fault"
    assert clinic.torch_works().fix == clinic.REINSTALL_TORCH
    assert clinic.cuda().state == "optional" and clinic.cpu().state == "ok"
    assert clinic.mps().state == "optional"


def test_a_torchvision_of_another_torch_is_named_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def nms(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    broken = types.ModuleType("torchvision")
    monkeypatch.setattr(broken, "ops", types.SimpleNamespace(nms=nms), raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", broken)
    finding = clinic.torchvision_matches()
    assert finding.state == "fault" and "nms does not exist" in finding.detail and "with torch" in finding.detail
    assert "torchvision" in finding.fix


def test_a_torchvision_pinned_to_another_torch_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clinic.metadata, "requires", lambda _: ["numpy", "torch==1.0.0"])
    assert "built for torch 1.0.0" in clinic.torchvision_matches().detail


def test_a_decoder_that_kills_its_process_or_hangs_is_survived(tmp_path: Path) -> None:
    worked, said = clinic.attempt("import os; os.abort()", tmp_path / "x.mp4")
    assert not worked and "signal 6" in said
    worked, said = clinic.attempt("import time; time.sleep(60)", tmp_path / "x.mp4", longest=0.3)
    assert not worked and "no answer" in said


def test_a_decoder_that_does_not_answer_may_have_had_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clinic, "decode", lambda _: (False, "no answer within 60 s"))
    assert clinic.pyav().fix.startswith("if the machine was busy, run `hybridvideo doctor` again")


def test_a_decoder_that_loses_frames_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clinic.DECODERS, "av", "print(7)")
    assert clinic.pyav() == Finding("PyAV", "fault", "read 7 of 8 frames", "pip install --force-reinstall av")


def test_absent_decoders_are_optional_and_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clinic.util, "find_spec", lambda _: None)
    for finding, extra in ((clinic.decord(), "decord"), (clinic.torchcodec(), "torchcodec")):
        assert finding.state == "optional" and finding.fix == f"pip install 'hybridvideo[{extra}]'"


def test_torchcodec_without_ffmpeg_asks_for_ffmpeg_and_with_it_for_a_matching_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clinic.util, "find_spec", lambda _: object())
    monkeypatch.setattr(clinic, "decode", lambda _: (False, "RuntimeError: Could not load libtorchcodec. Likely"))
    monkeypatch.setattr(clinic, "ffmpeg_libraries", lambda: False)
    assert "ffmpeg" in clinic.torchcodec().fix
    monkeypatch.setattr(clinic, "ffmpeg_libraries", lambda: True)
    assert clinic.torchcodec().fix.endswith("torchcodec")


def test_bf16_support_is_the_best_the_processor_has() -> None:
    assert "AMX" in clinic.bf16_support({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": True})
    assert "AVX-512" in clinic.bf16_support({"architecture": "x86_64", "avx512_bf16": True})
    assert "fp32" in clinic.bf16_support({"architecture": "x86_64"})
    assert clinic.bf16_support({"architecture": "aarch64"}) == ""


def test_a_folder_that_cannot_be_written_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(clinic.tempfile, "TemporaryFile", refuse)
    finding = clinic.writing()
    assert finding.state == "optional" and "Permission denied" in finding.detail and "--out" in finding.fix
