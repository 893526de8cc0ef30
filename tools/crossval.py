"""Cross-validation by group: `python tools/crossval.py --config configs/train/surv_fight.yaml --manifest groups.csv`.

Videos of one group (a scene, a person) are always in the same fold. Each fold is trained and evaluated by the very
commands a user types; the accuracy is over all videos, each scored by the model that did not see its group.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from hybridvideo.data.manifest import Manifest, read_manifest, write_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a run file for `hybridvideo train`")
    parser.add_argument("--manifest", required=True, help="CSV or Parquet with path, label and group")
    parser.add_argument("--labels", nargs="+", help="class names in the order of integer labels")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/crossval")
    parser.add_argument("more", nargs="*", help="after --: further options of `hybridvideo train`")
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.manifest, labels=arguments.labels)
    out = Path(arguments.out)
    accuracies = []
    for seed in range(arguments.seeds):
        folds = assign_folds(manifest, arguments.folds, seed)
        correct = [run_fold(arguments, manifest, folds, fold, seed, out) for fold in range(arguments.folds)]
        accuracies.append(sum(correct) / len(manifest))
        print(f"seed {seed}: {accuracies[-1]:.4f}   by fold: {correct}", flush=True)
    mean, spread = np.mean(accuracies), np.std(accuracies, ddof=1) if len(accuracies) > 1 else 0.0
    print(f"{arguments.folds}-fold cross-validation by group, {len(manifest)} videos, {arguments.seeds} seeds: "
          f"{mean:.4f} (standard deviation over seeds {spread:.4f})")  # fmt: skip


def assign_folds(manifest: Manifest, folds: int, seed: int) -> list[int]:
    """The fold of each video: large groups first, each to the fold with the fewest videos of its classes."""
    random = np.random.default_rng(seed)
    groups = list(manifest.groups().values())
    order = sorted(random.permutation(len(groups)), key=lambda i: -len(groups[i]))
    counts = np.zeros((folds, len(manifest.labels)))
    fold_of = [0] * len(manifest)
    for i in order:
        added = np.bincount([manifest.rows[row].label or 0 for row in groups[i]], minlength=len(manifest.labels))
        fold = int(np.argmin((counts * (added > 0)).sum(1) + 1e-3 * counts.sum(1)))
        counts[fold] += added
        for row in groups[i]:
            fold_of[row] = fold
    return fold_of


def run_fold(
    arguments: argparse.Namespace, manifest: Manifest, folds: list[int], fold: int, seed: int, out: Path
) -> int:
    """Train without a fold, evaluate on it; gives the number of right answers. A fold that is done is not redone."""
    folder = out / f"seed{seed}-fold{fold}"
    results = folder / "held_out" / "results.json"
    if not results.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, inside in (("train", False), ("held_out", True)):
            chosen = [row for row, its in enumerate(folds) if (its == fold) == inside]
            write_manifest(manifest.subset(chosen), folder / f"{name}.csv")
        hybridvideo(
            "train", "--config", arguments.config, "--data.train", str(folder / "train.csv"), "--data.val", "",
            "--data.cache", str(out / "cache"), "--seed", str(seed), "--out", str(folder / "run"), *arguments.more,
        )  # fmt: skip
        hybridvideo("evaluate", str(folder / "run"), "--data.manifest", str(folder / "held_out.csv"),
                    "--out", str(folder / "held_out"))  # fmt: skip
    figures = json.loads(results.read_text())
    return round(figures["top1"] * (figures["num_videos"] - figures["num_failed"]))


def hybridvideo(*options: str) -> None:
    """A command of the package; its output is shown only where it fails."""
    done = subprocess.run([sys.executable, "-m", "hybridvideo", *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"hybridvideo {' '.join(options)} failed ({done.returncode}):\n{done.stderr}")


if __name__ == "__main__":
    main()
