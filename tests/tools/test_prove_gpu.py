"""The proof runs on a CPU too: its list, what its checks find there, and what becomes of one that breaks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from gpu_proof import models, suspicions  # noqa: E402
from gpu_proof.catalogue import all_checks  # noqa: E402
from gpu_proof.finding import Check, Context, Finding, plain  # noqa: E402
from gpu_proof.page import write_page  # noqa: E402
from gpu_proof.runner import NOT_REACHED, Record  # noqa: E402
from gpu_proof.timing import Spread  # noqa: E402
from gpu_proof.worker import answer  # noqa: E402

CHOSEN = (
    "models/hybrid_micro", "suspicions/window masks", "suspicions/attention over time", "suspicions/pinned views",
    "inference/autocast caches", "peers/video_swin_tiny",
)  # fmt: skip


def prove(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "prove_gpu.py"), "--device", "cpu", "--out", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The command with a check of most kinds."""
    folder = tmp_path_factory.mktemp("proof")
    return prove(folder, "--only", *CHOSEN), folder


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(torch.device("cpu"), True, tmp_path, time.monotonic() + 600)


def documents(folder: Path) -> dict[str, Any]:
    checks = json.loads((folder / "proof.json").read_text())["checks"]
    return {check["name"]: check for check in checks}


def test_every_chosen_check_is_answered_and_none_fails(
    proof: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, folder = proof
    found = documents(folder)
    assert set(found) == set(CHOSEN), done.stdout + done.stderr
    assert {name: check["summary"] for name, check in found.items() if check["status"] == "failed"} == {}
    assert done.returncode == 0 and "nothing failed" in done.stdout


def test_what_needs_a_gpu_is_skipped_by_name(proof: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    assert documents(proof[1])["suspicions/pinned views"]["status"] == "skipped"


def test_figures_come_with_command_machine_and_date(proof: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    document = json.loads((proof[1] / "proof.json").read_text())
    assert document["machine"]["torch"] and document["machine"]["cpu"] and document["date"] and document["command"]
    for check in document["checks"]:
        assert check["name"] in check["command"]
        assert check["figures"] or check["status"] == "skipped", check["name"]


def test_the_page_names_every_check_and_loads_nothing(
    proof: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    text = (proof[1] / "proof.html").read_text()
    assert all(name in text for name in CHOSEN)
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")


def test_the_list_has_every_model_and_every_subject() -> None:
    import hybridvideo as hv

    names = [check.name for check in all_checks(["*"])]
    assert len(names) == len(set(names))
    assert {f"models/{name}" for name in hv.list_models()} <= set(names)
    assert {"suspicions", "inference", "models", "training", "peers", "loading", "compile"} == {
        name.split("/")[0] for name in names
    }


def test_a_wrong_pattern_is_a_usage_error(tmp_path: Path) -> None:
    done = prove(tmp_path, "--only", "nothing/*")
    assert done.returncode == 2 and "--list" in done.stderr


# --- what becomes of a check that breaks ------------------------------------------------------------------------------


def raising(error: Exception) -> Check:
    def function(context: Context) -> Finding:
        raise error

    return Check("a/check", "whether it breaks", function)


def test_an_exception_is_a_finding_with_its_traceback(context: Context) -> None:
    finding = answer(raising(ValueError("wrong\nmore")), context)
    assert (finding.status, finding.summary) == ("failed", "ValueError: wrong")
    assert "in function" in finding.trace


def test_running_out_of_memory_is_a_finding(context: Context) -> None:
    finding = answer(raising(torch.OutOfMemoryError("CUDA out of memory")), context)
    assert finding.status == "failed" and finding.summary.startswith("out of memory")


def test_a_package_that_is_missing_skips_its_check_and_one_of_ours_fails_it(context: Context) -> None:
    needing = Check("a/check", "nothing", lambda context: Finding("ok", ""), needs=("no_such_package",))
    assert answer(needing, context).summary == "not installed: no_such_package"
    assert answer(raising(ModuleNotFoundError("no x", name="x.y")), context).status == "skipped"
    assert answer(raising(ModuleNotFoundError("no x", name="hybridvideo.x")), context).status == "failed"


def test_what_was_not_reached_counts_as_failed_and_what_was_skipped_does_not(tmp_path: Path) -> None:
    checks = [Check(name, "nothing", lambda context: Finding("ok", "")) for name in ("a/1", "a/2", "a/3")]
    record = Record(tmp_path, "command", checks)
    found = (Finding("ok", "fine"), Finding("skipped", NOT_REACHED), Finding("skipped", "needs a GPU"))
    record.findings = {check.name: finding for check, finding in zip(checks, found, strict=True)}
    record.save()
    assert record.failed() == ["a/2"]
    assert json.loads((tmp_path / "proof.json").read_text())["failed"] == ["a/2"]


def test_no_time_left_is_told_of_every_check_and_the_code_is_1(tmp_path: Path) -> None:
    done = prove(tmp_path, "--minutes", "0.01", "--only", "suspicions/constants", "compile/*")
    assert done.returncode == 1
    assert {check["summary"] for check in documents(tmp_path).values()} == {NOT_REACHED}


def test_text_of_an_error_is_not_markup_on_the_page(tmp_path: Path) -> None:
    finding = Finding("failed", "<b>bold</b>", {"figure": "<i>"}, 1.0, "<trace>")
    check = Check("a/<check>", "what <it> settles", lambda context: finding)
    record = Record(tmp_path, "<command>", [check], findings={check.name: finding})
    write_page(tmp_path / "page.html", record.document())
    text = (tmp_path / "page.html").read_text()
    assert not [tag for tag in ("<b>", "<i>", "<trace>", "<check>", "<it>", "<command>") if tag in text]


# --- whether the checks can fail --------------------------------------------------------------------------------------


class Wrong(torch.nn.Module):
    """A linear model that computes something else after it was copied, as a device with a fault would."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.linear, self.factor, self.copies = torch.nn.Linear(6, 16), factor, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Wrong:
        other = Wrong(self.factor)
        other.load_state_dict(self.state_dict())
        other.copies = self.copies + 1
        self.copies += 1
        return other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x) * (self.factor if self.copies > 1 else 1.0)
        return out


@pytest.mark.parametrize(("factor", "status"), [(1.0, "ok"), (1.01, "failed"), (float("nan"), "failed")])
def test_a_device_that_computes_something_else_is_found_out(context: Context, factor: float, status: str) -> None:
    def make(device: torch.device) -> models.Subject:
        labels = torch.tensor([0, 1])
        torch.manual_seed(0)
        return models.Subject(
            Wrong(factor), (torch.randn(2, 6),), lambda out: torch.nn.functional.cross_entropy(out, labels)
        )

    assert models.against_cpu(make, context).status == status


def test_masks_are_counted_once_each_however_often_they_are_used() -> None:
    q = torch.randn(1, 2, 4, 8)
    mask = torch.zeros(1, 2, 4, 4)
    with torch.no_grad(), suspicions.Masks() as masks:
        for _ in range(3):
            torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert sum(masks.bytes.values()) == mask.nbytes


def test_small_tensors_made_from_numbers_are_counted() -> None:
    with suspicions.SmallCopies() as counted:
        torch.tensor([1.0, 2.0])
        torch.zeros(100) + 1
    assert (counted.made, counted.copied) == (1, 0)


def test_figures_are_plain_json() -> None:
    figures = {"spread": Spread.of([1.0, 2.0, 3.0]).figures(), "bad": float("nan"), "many": [1 / 3]}
    assert plain(figures) == {"spread": {"median": 2.0, "quartiles": [1.5, 2.5]}, "bad": "nan", "many": [0.333333]}
