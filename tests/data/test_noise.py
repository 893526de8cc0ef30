"""Clips of noise against noise: a frame tells nothing, the motion tells the shape."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hybridvideo.data.synthetic.noise import FARTHEST, SHAPES, render_noise
from hybridvideo.data.synthetic.scenes import SPLITS


def grey(label: str, number: int, **changes: int) -> np.ndarray:
    clip = render_noise(label, seed=3, split="train", number=number, **changes)
    assert (clip == clip[..., :1]).all()
    return clip[..., 0].astype(np.float64)


def still_after(frames: np.ndarray, velocity: tuple[int, int]) -> np.ndarray:
    """Which pixels of the second frame are those of the first one, moved."""
    return np.asarray(np.roll(frames[0], velocity, (0, 1)) == frames[1])


def both_motions(frames: np.ndarray) -> list[np.ndarray]:
    """Where the ground has moved, and where the figure has, found by trying every velocity."""
    steps = range(-FARTHEST, FARTHEST + 1)
    found = [still_after(frames, velocity) for velocity in itertools.product(steps, steps)]
    return sorted(found, key=np.sum)[-2:][::-1]


def test_a_clip_is_determined_by_its_arguments() -> None:
    clips = [render_noise("ring", seed=1, split=split, number=n) for split in SPLITS for n in (0, 1)]
    assert clips[0].shape == (8, 48, 48, 3) and clips[0].dtype == np.uint8
    assert (clips[0] == render_noise("ring", seed=1, split="train", number=0)).all()
    assert all((one != other).mean() > 0.9 for one, other in itertools.combinations(clips, 2))


@pytest.mark.parametrize("label", sorted(SHAPES))
def test_the_motion_shows_the_shape_and_it_stays_where_it_is(label: str) -> None:
    frames = grey(label, 0, side=96)
    ground, figure = both_motions(frames)
    assert (ground | figure).mean() > 0.9  # but for what the shape covers or uncovers, and chance
    later = both_motions(frames[5:])[1]
    assert (figure & later).sum() > 0.8 * min(figure.sum(), later.sum())


def test_shapes_differ_where_their_motion_is_seen() -> None:
    masks = {label: both_motions(grey(label, 1, side=96))[1] for label in SHAPES}
    for one, other in itertools.combinations(SHAPES, 2):
        assert (masks[one] & masks[other]).sum() < 0.9 * (masks[one] | masks[other]).sum()


def test_no_frame_and_no_difference_shows_where_the_shape_is() -> None:
    inside, outside = [], []
    for number in range(40):
        frames = grey("square", number)
        ground, figure = both_motions(frames)
        values = np.stack([frames[1], frames[1] - frames[0], np.abs(frames[1] - frames[0])], -1)
        inside.append(values[figure & ~ground])
        outside.append(values[ground & ~figure])
    within, without = np.concatenate(inside), np.concatenate(outside)
    for statistic in (np.mean, np.std):
        assert np.allclose(statistic(within, 0), statistic(without, 0), atol=1.5)


def test_neighbouring_pixels_of_a_frame_are_independent() -> None:
    frames = np.stack([grey("disc", number)[3] for number in range(40)]) - 128
    for shifted in (np.roll(frames, 1, 1), np.roll(frames, 1, 2)):
        assert abs((frames * shifted).mean()) < 0.02 * frames.var()


def test_coarse_grains_are_the_same_clip_enlarged() -> None:
    fine, coarse = grey("cross", 5), grey("cross", 5, side=96, grain=2)
    assert (coarse[:, ::2, ::2] == fine).all() and (coarse[:, 1::2, 1::2] == fine).all()
