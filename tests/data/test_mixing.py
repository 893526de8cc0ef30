"""Mixed targets are what the mixed pictures are, and bad clips stay out."""

from __future__ import annotations

import pytest
import torch

from hybridvideo.config.data import AugmentConfig
from hybridvideo.data.mixing import Mixing, batch_generator, soft_targets

CLASSES = 6


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Clips (6, 3, 2, 8, 8) filled with their own number, each of a class of its own."""
    clips = torch.arange(6.0)[:, None, None, None, None].expand(6, 3, 2, 8, 8).contiguous()
    return clips, soft_targets(torch.arange(6), CLASSES)


def test_targets_sum_to_one_and_smoothing_is_spread_evenly() -> None:
    targets = soft_targets(torch.tensor([2, 0]), 4, smoothing=0.2)
    assert targets[0].tolist() == pytest.approx([0.05, 0.05, 0.85, 0.05])
    assert targets.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_a_clip_without_label_has_no_target() -> None:
    assert soft_targets(torch.tensor([-1]), 4, smoothing=0.2).tolist() == [[0.0] * 4]


@pytest.mark.parametrize("augment", [AugmentConfig(mixup=0.8), AugmentConfig(cutmix=1.0)])
def test_targets_are_mixed_as_the_pictures_are(augment: AugmentConfig) -> None:
    clips, targets = batch()
    changed = False
    for number in range(10):
        mixed, shares = Mixing(augment)(clips, targets, batch_generator(0, 0, number))
        assert torch.allclose(shares.sum(1), torch.ones(6))
        # each picture's mean is that of the clips' numbers weighted by their shares
        assert torch.allclose(mixed.mean((1, 2, 3, 4)), shares @ torch.arange(6.0), atol=1e-4)
        changed |= not torch.equal(mixed, clips)
    assert changed


def test_a_cutmix_box_is_the_same_in_all_frames_and_clips() -> None:
    clips, targets = batch()
    mixed, _ = Mixing(AugmentConfig(cutmix=1.0))(clips, targets, batch_generator(0, 0, 3))
    replaced = mixed != clips
    moved = replaced.flatten(1).any(1)
    assert moved.sum() >= 2
    boxes = replaced[moved].flatten(0, 2)
    assert all(torch.equal(boxes[0], box) for box in boxes)


def test_mixing_follows_from_seed_epoch_and_batch_alone() -> None:
    clips, targets = batch()
    mixing = Mixing(AugmentConfig(mixup=0.8, cutmix=1.0))
    torch.manual_seed(1)
    first = mixing(clips, targets, batch_generator(1, 2, 3))
    torch.manual_seed(2)
    again = mixing(clips, targets, batch_generator(1, 2, 3))
    other = mixing(clips, targets, batch_generator(1, 2, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_both_kinds_come_up_when_both_are_set() -> None:
    clips, targets = batch()
    mixing = Mixing(AugmentConfig(mixup=0.8, cutmix=1.0))
    pasted = [
        torch.equal(mixed, mixed.round())
        for mixed, _ in (mixing(clips, targets, batch_generator(0, 0, number)) for number in range(20))
    ]
    assert 4 < sum(pasted) < 16


def test_bad_clips_neither_change_nor_spread() -> None:
    clips, targets = batch()
    ok = torch.tensor([True, False, True, True, False, True])
    for number in range(10):
        _, shares = Mixing(AugmentConfig(mixup=0.8))(clips, targets, batch_generator(0, 0, number), ok)
        assert torch.equal(shares[~ok], targets[~ok])
        assert shares[ok][:, ~ok].sum() == 0


def test_without_alphas_nothing_changes() -> None:
    clips, targets = batch()
    mixed, shares = Mixing(AugmentConfig())(clips, targets, batch_generator(0, 0, 0))
    assert mixed is clips and shares is targets
