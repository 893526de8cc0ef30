"""All that must hold on a GPU, settled in one command: `python tools/prove_gpu.py`.

Runs from a plain checkout. Writes `proof.json` and `proof.html` into OUT after every check, prints a line for each,
ends with what failed, and exits with 1 if anything did. A check whose packages are not installed is skipped; wheels of
them can be given as a folder. On a CPU the same list runs at small size:

    python tools/prove_gpu.py --device cpu --models hybrid_micro
    python tools/prove_gpu.py --only 'peers/*' 'suspicions/*'
"""

from __future__ import annotations

import argparse
import atexit
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"
for place in (ROOT, TOOLS):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))


def main() -> int:
    """The command; 1 if a check failed or was not reached."""
    arguments = read_arguments()
    folder = Path(arguments.out).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.worker:
        return work(arguments.device, folder, *arguments.worker)
    if arguments.wheels:
        use_wheels(Path(arguments.wheels))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(TOOLS), os.environ.get("PYTHONPATH", "")])

    from gpu_proof.catalogue import all_checks
    from gpu_proof.runner import Record, run

    checks = [check for check in all_checks(arguments.models) if selected(check.name, arguments)]
    if arguments.list:
        print("\n".join(f"{check.name:<32} {check.settles}" for check in checks))
        return 0
    if not checks:
        print(f"no check matches --only {' '.join(arguments.only)}; --list shows them", file=sys.stderr)
        return 2
    record = Record(folder, shlex.join(["python", "tools/prove_gpu.py", *sys.argv[1:]]), checks)
    run(record, arguments.device, 60 * arguments.minutes)
    print(f"\n{folder / 'proof.json'}\n{folder / 'proof.html'}")
    failed = record.failed()
    print(f"failed or not reached, {len(failed)} of {len(checks)}: {', '.join(failed)}" if failed else "nothing failed")
    return bool(failed)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/proof", help="folder for the two files (default: runs/proof)")
    parser.add_argument("--device", default="cuda:0", help="cuda:NUMBER or cpu (default: cuda:0)")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all checks together (default: 8.5)")
    parser.add_argument("--models", nargs="+", default=["*"], metavar="PATTERN", help="models to check (default: all)")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="checks by name")
    parser.add_argument("--skip", nargs="+", default=[], metavar="PATTERN", help="checks to leave out")
    parser.add_argument("--wheels", metavar="FOLDER", help="wheels to use without installing them")
    parser.add_argument("--list", action="store_true", help="print the checks and end")
    parser.add_argument("--worker", nargs=2, type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def selected(name: str, arguments: argparse.Namespace) -> bool:
    """Whether --only and --skip leave the check in."""
    wanted = any(fnmatch(name, pattern) for pattern in arguments.only)
    return wanted and not any(fnmatch(name, pattern) for pattern in arguments.skip)


def use_wheels(folder: Path) -> None:
    """Unpack the wheels where this process and its children find them, before any other version of the same."""
    wheels = sorted(map(str, folder.glob("*.whl")))
    site = tempfile.mkdtemp(prefix="prove-gpu-")
    atexit.register(shutil.rmtree, site, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site]
    subprocess.run([*pip, *wheels], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([site, os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, site)


def work(device: str, folder: Path, requests: int, answers: int) -> int:
    """What the worker process does."""
    import json

    import torch
    from gpu_proof.catalogue import all_checks
    from gpu_proof.worker import machine, serve

    with os.fdopen(requests) as incoming, os.fdopen(answers, "w") as outgoing:
        target = torch.device(device)
        if target.type == "cuda":
            torch.cuda.set_device(target)  # events and streams are those of the current device
        torch.ones(1, device=target)
        outgoing.write(json.dumps({"machine": machine(target)}) + "\n")
        outgoing.flush()
        serve(all_checks(["*"]), target, folder, incoming, outgoing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
