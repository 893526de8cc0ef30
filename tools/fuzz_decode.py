"""Damage small videos of many containers and codecs, and check that every way of reading them agrees.

    python -m tools.fuzz_decode --seeds 0 3000

Each file is identified by its seed and its source; reproduce one with `--seeds SEED SEED+1`. Prints counts by outcome:
the status after reading a file completely, and files that disagree, hang or crash.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from hybridvideo.data.processes.workers import Lost, each

agreement = importlib.import_module("tests.data.decode.agreement")  # the types of the tests are not checked

DEADLINE = 60.0  # seconds per file
MEMORY = 1536 * 2**20  # bytes of address space beyond what the process has at first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 1000), metavar=("FIRST", "END"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="part of the name of the sources to damage")
    options = parser.parse_args()
    seeds = range(*options.seeds)
    counts: Counter[str] = Counter()
    slowest = (0.0, "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = agreement.sources(folder)
        job = partial(agreement.tried_within, MEMORY, folder=folder, files=files, only=options.only)
        for seed, outcome in zip(seeds, each(job, seeds, workers=options.workers, deadline=DEADLINE), strict=True):
            if isinstance(outcome, Lost):
                counts["lost"] += 1
                print(f"seed {seed}: {outcome}", flush=True)
                continue
            source, status, found, seconds = outcome
            slowest = max(slowest, (seconds, f"seed {seed}, {source}"))
            counts[status] += 1
            counts["disagree"] += bool(found)
            for line in found[:4]:
                print(f"seed {seed}, {source}, {status}: {line}", flush=True)
    print(dict(counts), f"slowest: {slowest[0]:.1f} s, {slowest[1]}")
    return int(bool(counts["disagree"] or counts["lost"]))


if __name__ == "__main__":
    sys.exit(main())
