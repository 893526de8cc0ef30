"""Search for the likeliest sequence of labels, one label after another.

B clips   W beams   K labels   L length
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hybridvideo.errors import UserError

NextScores = Callable[[Tensor], Tensor]


def search(next_scores: NextScores, clips: int, end: int, longest: int, beams: int = 1) -> tuple[Tensor, Tensor]:
    """Find a likely sequence of labels for each clip by beam search; one beam is greedy search.

    The beams are nested: the first j of them are those that a search with j beams would hold, so a wider search never
    returns a sequence of a lower score. (In the usual search a good beginning may push out one with a better end.)

    Args:
        next_scores: (B, W, l) sequences so far -> (B, W, K) log-probabilities of the label that follows each.
        clips: B.
        end: the label that ends a sequence.
        longest: labels of a sequence at most, 1 or more.
        beams: sequences that are followed for each clip, 1 or more.

    Returns:
        (B, L) labels, L at most `longest`, each sequence filled with `end` after its first one; and (B,) scores, the
        sums of the log-probabilities of the labels up to the first `end`.

    Raises:
        UserError: `longest` or `beams` is below 1.
    """
    if longest < 1 or beams < 1:
        raise UserError(f"longest is {longest} and beams is {beams}; give 1 or more")
    labels_BWL = torch.empty(clips, 1, 0, dtype=torch.long)
    scores_BW = torch.zeros(clips, 1)
    for _ in range(longest):
        steps_BWK = next_scores(labels_BWL).float()
        labels_BWL, scores_BW = labels_BWL.to(steps_BWK.device), scores_BW.to(steps_BWK.device)
        ended_BW = labels_BWL[..., -1] == end if labels_BWL.shape[2] else torch.zeros_like(scores_BW, dtype=torch.bool)
        totals_BWK = scores_BW[..., None] + after_the_end(steps_BWK, ended_BW, end)
        labels_BWL, scores_BW = nested_best(labels_BWL, totals_BWK, beams)
        if (labels_BWL[..., -1] == end).all():
            break
    best_B = scores_BW.argmax(1)
    rows_B = torch.arange(clips, device=best_B.device)
    return labels_BWL[rows_B, best_B], scores_BW[rows_B, best_B]


def after_the_end(steps_BWK: Tensor, ended_BW: Tensor, end: int) -> Tensor:
    """The scores of the next label; a sequence that ended goes on with `end`, at no cost."""
    only_end_K = torch.full_like(steps_BWK[0, 0], -torch.inf)
    only_end_K[end] = 0
    return torch.where(ended_BW[..., None], only_end_K, steps_BWK)


def nested_best(labels_BWL: Tensor, totals_BWK: Tensor, beams: int) -> tuple[Tensor, Tensor]:
    """Continue the sequences: new beam j is the best continuation of old beams 1 to j that no earlier new beam took."""
    B, W, K = totals_BWK.shape
    rows_B = torch.arange(B, device=totals_BWK.device)
    left_BN = totals_BWK.flatten(1).clone()
    labels, scores = [], []
    for j in range(min(beams, W * K)):
        score_B, index_B = left_BN[:, : K * min(j + 1, W)].max(1)
        left_BN[rows_B, index_B] = -torch.inf
        labels.append(torch.cat([labels_BWL[rows_B, index_B // K], index_B[:, None] % K], 1))
        scores.append(score_B)
    return torch.stack(labels, 1), torch.stack(scores, 1)
