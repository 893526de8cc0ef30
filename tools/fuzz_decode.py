"""Damages small videos of many containers and codecs, and asks whether every way of reading them agrees.

    python -m tools.fuzz_decode --seeds 0 3000

Each file is named by its seed and its source; what is said of one can be seen again with `--seeds SEED SEED+1`.
Prints counts by outcome: the status that reading through gives, files that disagree, hang or crash.
"""

from __future__ import annotations

import argparse
import importlib
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from hybridvideo.data.workers import Lost, each

agreement = importlib.import_module("tests.data.decode.agreement")  # the types of the tests are not checked

DEADLINE = 60.0  # seconds a file
MEMORY = 1536 * 2**20  # bytes of address space beyond what the process has at first


def tried(seed: int, folder: Path, files: list[Path], only: str) -> tuple[str, str, list[str], float]:
    """Source, status and disagreements of one file, and the seconds it took."""
    draw = random.Random(seed)
    source = draw.choice([path for path in files if only in path.name])
    path = folder / f"{seed}-{source.name}"
    began = time.monotonic()
    limit_memory()
    try:
        if not agreement.damaged(source, path, draw):
            return source.name, "not made", [], 0.0
        status, found = agreement.disagreements(path, draw)
        return source.name, status, found, time.monotonic() - began
    finally:
        path.unlink(missing_ok=True)


def limit_memory() -> None:
    """Once in each process."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


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
        job = partial(tried, folder=folder, files=agreement.sources(folder), only=options.only)
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
