"""Runs checks in a worker process, each within its time, and keeps what has been found after every one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

from gpu_proof.finding import SCRATCH, Check, Finding
from gpu_proof.page import write_page

START = 120.0  # seconds for a worker to import torch and open the device
SPARE = 5.0  # seconds under which no check is started
GRACE = 3.0  # seconds that a check may exceed its time, to answer by itself
CPU_PATIENCE = 4.0  # times as long on a CPU, which may be busy with other work
NOT_REACHED = "not reached: no time was left"


@dataclass
class Record:
    """All that is known so far; `save` writes it as `proof.json` and `proof.html`."""

    folder: Path
    command: str
    checks: Sequence[Check]
    machine: dict[str, Any] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    date: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))

    def document(self) -> dict[str, Any]:
        """As the JSON holds it. `command` of a check repeats that one alone."""
        return {
            "command": self.command,
            "date": self.date,
            "seconds": round(time.monotonic() - self.started, 1),
            "machine": self.machine,
            "failed": self.failed(),
            "skipped": [name for name, finding in self.findings.items() if finding.status == "skipped"],
            "checks": [
                {
                    "name": check.name,
                    "settles": check.settles,
                    "command": f"python tools/prove_gpu.py --only '{check.name}'",
                    **vars(self.findings[check.name]),
                }
                for check in self.checks
                if check.name in self.findings
            ],
        }

    def failed(self) -> list[str]:
        """Names of what failed or was not reached."""
        return [
            name
            for name, finding in self.findings.items()
            if finding.status == "failed" or finding.summary == NOT_REACHED
        ]

    def save(self) -> None:
        """Both files, each complete or as it was before."""
        document = self.document()
        aside = self.folder / "proof.json.part"
        aside.write_text(json.dumps(document, indent=1))
        aside.replace(self.folder / "proof.json")
        write_page(self.folder / "proof.html", document)


def run(record: Record, device: str, seconds: float) -> None:
    """Every check of the record, in order, within a limit of seconds altogether."""
    end = record.started + seconds
    shutil.rmtree(record.folder / SCRATCH, ignore_errors=True)
    waiting = list(record.checks)
    while waiting and time.monotonic() < end - SPARE:
        with Worker(device, record.folder) as worker:
            if (found := worker.start()) is None:
                break
            record.machine = found
            for _ in while_sound(worker, record, waiting, end):
                record.save()
    lost = "no worker could be started; worker.log has the reason"
    for check in waiting:
        reason = NOT_REACHED if time.monotonic() >= end - SPARE else lost
        note(record, check, Finding("skipped" if reason == NOT_REACHED else "failed", reason))
    record.save()
    shutil.rmtree(record.folder / SCRATCH, ignore_errors=True)


def while_sound(worker: Worker, record: Record, waiting: list[Check], end: float) -> Iterator[None]:
    """Take checks off the list while time is left and the worker's device computes; yields after each."""
    while waiting and (left := end - time.monotonic()) > SPARE:
        check = waiting.pop(0)
        finding, sound = worker.ask(check, min(check.seconds * worker.patience, left - GRACE))
        note(record, check, finding)
        yield
        if not sound:
            return


def note(record: Record, check: Check, finding: Finding) -> None:
    """Keep a finding and print its line."""
    record.findings[check.name] = finding
    print(f"{finding.status:<8}{finding.seconds:6.1f} s  {check.name:<32} {finding.summary}", flush=True)


class Worker:
    """`prove_gpu.py --worker` in a process group of its own, which ends with it."""

    def __init__(self, device: str, folder: Path) -> None:
        self.log = (folder / "worker.log").open("ab")
        self.patience = CPU_PATIENCE if device == "cpu" else 1.0
        request, self._requests = os.pipe()
        self._answers, answer = os.pipe()
        script = Path(__file__).resolve().parents[1] / "prove_gpu.py"
        command = [sys.executable, str(script), "--device", device, "--out", str(folder), "--worker"]
        self.process = subprocess.Popen(
            [*command, str(request), str(answer)],
            pass_fds=(request, answer),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        os.close(request)
        os.close(answer)
        self._lines: IO[bytes] = os.fdopen(self._answers, "rb")

    def start(self) -> dict[str, Any] | None:
        """Facts about the machine, once the worker is ready; None if it does not start."""
        line = self._line(START)
        return None if not line else dict(json.loads(line)["machine"])

    def ask(self, check: Check, seconds: float) -> tuple[Finding, bool]:
        """What the worker finds, and whether it can go on."""
        start = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requests, (json.dumps({"name": check.name, "seconds": seconds}) + "\n").encode())
        line = self._line(seconds + GRACE)
        spent = time.monotonic() - start
        if line is None:
            return Finding("failed", f"ended: it took longer than {seconds:.0f} s", seconds=spent), False
        if not line:
            code = self.process.wait()
            return Finding("failed", f"its process ended with code {code}; worker.log has the rest", {}, spent), False
        answer = json.loads(line)
        return Finding(**answer["finding"]), bool(answer["sound"])

    def _line(self, seconds: float) -> bytes | None:
        """The next line; None if none comes in time, empty if none can come."""
        ready, _, _ = select.select([self._answers], [], [], max(seconds, 0.0))
        return self._lines.readline() if ready else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._requests)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._lines.close()
        self.log.close()
