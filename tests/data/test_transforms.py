"""Crops lie where they should, are alike in all frames, and follow from the generator alone."""

from __future__ import annotations

import pytest
import torch

from hybridvideo.config.data import AugmentConfig, FrameConfig
from hybridvideo.data.transforms import TrainTransform, ViewTransform, scaled_size
from hybridvideo.errors import UserError

STILL = AugmentConfig(crop="none", flip=0.0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramp(height: int, width: int, frames: int = 2) -> torch.Tensor:
    """(T, C, H, W): red grows to the right, green downward, blue is constant; all frames alike."""
    clip = torch.full((frames, 3, height, width), 128, dtype=torch.uint8)
    clip[:, 0] = torch.linspace(0, 255, width).round().to(torch.uint8)
    clip[:, 1] = torch.linspace(0, 255, height).round().to(torch.uint8)[:, None]
    return clip


# ---- testing


def test_three_crops_cover_both_ends_of_a_landscape_frame() -> None:
    left, centre, right = ViewTransform(FrameConfig(32, 32), crops=3)(ramp(32, 64))
    assert torch.equal(left, ramp(32, 64)[..., :32])
    assert torch.equal(centre, ramp(32, 64)[..., 16:48])
    assert torch.equal(right, ramp(32, 64)[..., 32:])


def test_three_crops_cover_both_ends_of_a_portrait_frame() -> None:
    top, centre, bottom = ViewTransform(FrameConfig(32, 32), crops=3)(ramp(64, 32))
    assert torch.equal(top, ramp(64, 32)[..., :32, :])
    assert torch.equal(centre, ramp(64, 32)[..., 16:48, :])
    assert torch.equal(bottom, ramp(64, 32)[..., 32:, :])


def test_one_crop_is_the_centre() -> None:
    views = ViewTransform(FrameConfig(32, 32), crops=1)(ramp(32, 64))
    assert views.shape == (1, 2, 3, 32, 32) and views.dtype == torch.uint8
    assert torch.equal(views[0], ramp(32, 64)[..., 16:48])


def test_short_side_leaves_room_around_the_crop() -> None:
    view = ViewTransform(FrameConfig(32, 32, short_side=64))(ramp(64, 64))[0]
    assert torch.equal(view, ramp(64, 64)[..., 16:48, 16:48])


def test_stretch_shows_the_complete_frame() -> None:
    view = ViewTransform(FrameConfig(32, 48, fit="stretch"))(ramp(64, 64))[0]
    assert view.shape == (2, 3, 32, 48)
    assert view[0, 0, 0, 0] < 6 and view[0, 0, 0, -1] > 249 and view[0, 1, -1, 0] > 249


def test_three_crops_of_a_stretched_frame_are_refused() -> None:
    with pytest.raises(UserError, match="stretch"):
        ViewTransform(FrameConfig(32, 32, fit="stretch"), crops=3)


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (17, 400), (400, 17), (1, 1), (257, 341)])
@pytest.mark.parametrize("crop", [(32, 32), (32, 56), (56, 32)])
def test_every_crop_fits_into_every_frame(size: tuple[int, int], crop: tuple[int, int]) -> None:
    scaled = scaled_size(size, short_side=min(crop), crop=crop)
    assert scaled[0] >= crop[0] and scaled[1] >= crop[1]
    clip = torch.zeros((1, 3, *size), dtype=torch.uint8)
    assert ViewTransform(FrameConfig(*crop), crops=3)(clip).shape == (3, 1, 3, *crop)
    for kind in ("resized", "jitter", "none"):
        for fit in ("crop", "stretch"):
            transform = TrainTransform(FrameConfig(*crop, fit=fit), AugmentConfig(crop=kind))  # type: ignore[arg-type]
            assert transform(clip, seeded(0)).shape == (1, 3, *crop)


def test_scaling_keeps_the_aspect() -> None:
    assert scaled_size((256, 340), short_side=224, crop=(224, 224)) == (224, 297)
    assert scaled_size((340, 256), short_side=256, crop=(224, 224)) == (340, 256)
    assert scaled_size((240, 320), short_side=100, crop=(100, 200)) == (150, 200)


# ---- training


@pytest.mark.parametrize("kind", ["resized", "jitter"])
def test_a_training_clip_follows_from_the_generator_alone(kind: str) -> None:
    transform = TrainTransform(FrameConfig(24, 24), AugmentConfig(crop=kind))  # type: ignore[arg-type]
    clip = torch.randint(0, 256, (3, 3, 40, 60), dtype=torch.uint8, generator=seeded(1))
    torch.manual_seed(0)
    first = transform(clip, seeded(5))
    state = torch.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(first, transform(clip, seeded(5)))
    assert not torch.equal(first, transform(clip, seeded(6)))
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())  # the global generator was not touched


@pytest.mark.parametrize("kind", ["resized", "jitter", "none"])
def test_all_frames_of_a_clip_are_treated_alike(kind: str) -> None:
    transform = TrainTransform(FrameConfig(24, 24), AugmentConfig(crop=kind))  # type: ignore[arg-type]
    for seed in range(5):
        clip = transform(ramp(40, 60, frames=4), seeded(seed))
        assert all(torch.equal(clip[0], frame) for frame in clip)


def test_flip_keeps_the_picture_and_turns_left_to_right() -> None:
    frame = FrameConfig(32, 32)
    always = TrainTransform(frame, AugmentConfig(crop="none", flip=1.0))(ramp(32, 64), seeded(0))
    never = TrainTransform(frame, STILL)(ramp(32, 64), seeded(0))
    assert torch.equal(always.flip(-1), never)
    assert torch.equal(never, ViewTransform(frame)(ramp(32, 64))[0])


def test_flip_comes_as_often_as_asked() -> None:
    transform = TrainTransform(FrameConfig(8, 8), AugmentConfig(crop="none", flip=0.25))
    clip = ramp(8, 8, frames=1)
    flips = sum(not torch.equal(transform(clip, seeded(seed)), clip) for seed in range(400))
    assert 70 < flips < 130


def test_no_flip_ever_where_a_class_has_a_direction() -> None:
    transform = TrainTransform(FrameConfig(16, 16), AugmentConfig(flip=0.0))
    for seed in range(50):
        red = transform(ramp(32, 48), seeded(seed))[0, 0, 0].int()
        assert red[-1] >= red[0]


def test_resized_crops_keep_their_share_of_the_area() -> None:
    transform = TrainTransform(FrameConfig(16, 16), AugmentConfig(area=(0.25, 0.25), aspect=(1.0, 1.0), flip=0.0))
    for seed in range(20):
        clip = transform(ramp(128, 128), seeded(seed))[0].int()
        assert abs((clip[0, 0, -1] - clip[0, 0, 0]).item() - 255 * 0.5 * 15 / 16) < 4


def test_under_stretch_an_aspect_of_one_keeps_the_videos_own() -> None:
    augment = AugmentConfig(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0)
    frame = FrameConfig(16, 16, fit="stretch")
    assert torch.equal(TrainTransform(frame, augment)(ramp(64, 128), seeded(0)), ViewTransform(frame)(ramp(64, 128))[0])
