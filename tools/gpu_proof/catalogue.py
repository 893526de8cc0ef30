"""All checks, those that decide most first: what is wrong, then whether runs can be trusted, then how fast it is."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from gpu_proof import compiled, inference, internals, loading, models, peers, suspicions, training
from gpu_proof.finding import Check


def all_checks(patterns: Sequence[str]) -> list[Check]:
    """The list; of the models those that match a pattern."""
    import hybridvideo as hv

    def wanted(names: Sequence[str]) -> list[str]:
        return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]

    own = models.checks(wanted(hv.list_models()), wanted(internals.pretraining_names()))
    return [
        *suspicions.checks(),
        *inference.checks(),
        *own,
        *training.checks(),
        *peers.checks(),
        *loading.checks(),
        *compiled.checks(),
    ]
