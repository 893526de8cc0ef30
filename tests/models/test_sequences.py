"""Search for sequences, on tables of random scores."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models.sequences import search

LABELS, END, CLIPS, LONGEST = 4, 3, 6, 4


class Language:
    """Log-probabilities of the next label that depend on the clip and on all labels before it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def after(self, clip: int, labels: tuple[int, ...]) -> Tensor:
        code = sum((label + 1) * 7**place for place, label in enumerate(labels))
        generator = torch.Generator().manual_seed(self.seed + 1000 * clip + 100_003 * code)
        return (3 * torch.randn(LABELS, generator=generator)).log_softmax(0)

    def __call__(self, labels_BWL: Tensor) -> Tensor:
        rows = [[self.after(clip, tuple(beam)) for beam in beams] for clip, beams in enumerate(labels_BWL.tolist())]
        return torch.stack([torch.stack(row) for row in rows])

    def score(self, clip: int, labels: tuple[int, ...]) -> float:
        kept = labels[: labels.index(END) + 1] if END in labels else labels
        return sum(float(self.after(clip, kept[:i])[label]) for i, label in enumerate(kept))


@pytest.mark.parametrize("seed", range(3))
def test_one_beam_takes_the_likeliest_label_at_every_step(seed: int) -> None:
    language = Language(seed)
    found, _ = search(language, CLIPS, END, LONGEST)
    for clip, labels in enumerate(found.tolist()):
        greedy: tuple[int, ...] = ()
        while len(greedy) < len(labels):
            greedy += (END if END in greedy else int(language.after(clip, greedy).argmax()),)
        assert tuple(labels) == greedy


def test_a_wider_beam_never_scores_lower_and_the_widest_finds_the_best() -> None:
    better = 0
    for seed in range(5):
        language = Language(seed)
        scores = [search(language, CLIPS, END, LONGEST, beams)[1] for beams in (1, 2, 3, 5, 8, 200)]
        assert all((wider >= narrower - 1e-6).all() for narrower, wider in itertools.pairwise(scores))
        better += int((scores[-1] > scores[0] + 1e-6).sum())
        for clip in range(CLIPS):
            every = itertools.product(range(LABELS), repeat=LONGEST)
            best = max(language.score(clip, labels) for labels in every)
            assert scores[-1][clip].item() == pytest.approx(best, abs=1e-4)
    assert better > 0


def test_a_score_is_that_of_its_sequence_which_goes_on_with_the_end() -> None:
    language = Language(7)
    labels_BL, scores_B = search(language, CLIPS, END, LONGEST, beams=3)
    for clip, (labels, score) in enumerate(zip(labels_BL.tolist(), scores_B.tolist(), strict=True)):
        assert score == pytest.approx(language.score(clip, tuple(labels)), abs=1e-4)
        assert END not in labels or set(labels[labels.index(END) :]) == {END}


def test_a_search_without_beams_or_labels_is_refused() -> None:
    for longest, beams in ((0, 1), (1, 0)):
        with pytest.raises(UserError, match="give 1 or more"):
            search(Language(0), 1, END, longest, beams)
