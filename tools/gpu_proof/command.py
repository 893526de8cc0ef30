"""The `hybridvideo` command, with torch set up and watched as the environment asks for: `python -m gpu_proof.command`.

PROOF_DETERMINISTIC=1   deterministic algorithms where torch has them, a warning where it has none
PROOF_SYNCS=FILE        waits of the host for the device, from a step's first forward pass to the optimizer's, to FILE
"""

from __future__ import annotations

import os
import sys

import torch


def main() -> int:
    """The exit code of the command."""
    from hybridvideo.cli import main as hybridvideo

    if os.environ.get("PROOF_DETERMINISTIC"):
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    if path := os.environ.get("PROOF_SYNCS"):
        from gpu_proof.syncs import watched

        with watched(path):
            return hybridvideo(sys.argv[1:])
    return hybridvideo(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
