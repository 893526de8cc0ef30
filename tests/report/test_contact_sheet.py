"""Contact sheets: right and wrong are distinguishable, sizes stay modest, any clip fits."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from hybridvideo.report.contact_sheet import FRAME_HEIGHT, GAP, Sample, contact_sheet, evenly, strip
from tests.report.examples import Page, samples


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


def test_right_is_green_wrong_is_red_and_unknown_is_neither() -> None:
    frames = np.zeros((8, 3, 16, 16), np.uint8)
    kinds = {"left": "clip good-border", "right": "clip bad-border", None: "clip"}
    for truth, kind in kinds.items():
        seen = Page(contact_sheet([Sample("a.mp4", frames, truth, "left", 0.93)]))
        assert kind in [attributes.get("class") for _, attributes in seen.tags]
        assert "predicted left 93\u00a0%" in seen.words
        assert ("true " in seen.words) == (truth is not None)


def test_paths_and_labels_are_escaped() -> None:
    evil = Sample('x/"><script>.mp4', np.zeros((1, 3, 8, 8), np.uint8), "<b>", "<i>", 0.5)
    assert not {"script", "b><", "i"} & {tag for tag, _ in Page(contact_sheet([evil])).tags}


def test_of_many_clips_twenty_four_are_shown_and_even_noise_stays_modest() -> None:
    sheet = contact_sheet(samples(60, (90, 160)))
    assert sheet.count("<img") == 24
    assert len(sheet) < 2_500_000


def test_evenly_spaced_indices_hold_both_ends() -> None:
    assert evenly(3, 8) == [0, 1, 2]
    assert evenly(15, 8) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_frames_stand_in_order_of_time() -> None:
    shades = np.arange(8, dtype=np.uint8)[:, None, None, None] * 30
    image = picture(strip(np.broadcast_to(shades, (8, 3, 20, 20)).copy()))
    centres = [i * (FRAME_HEIGHT + GAP) + FRAME_HEIGHT // 2 for i in range(8)]
    assert [round(image.getpixel((x, 40))[0] / 30) for x in centres] == list(range(8))


def test_wide_frames_stand_in_two_rows_and_very_wide_ones_are_cut() -> None:
    assert picture(strip(np.zeros((8, 3, 90, 160), np.uint8))).height == 2 * FRAME_HEIGHT + GAP
    width = picture(strip(np.zeros((8, 3, 40, 400), np.uint8))).width
    assert width <= 4 * (FRAME_HEIGHT * 16 / 9 + GAP + 1)


@pytest.mark.parametrize("frames", [1, 5, 100])
def test_a_clip_of_any_length_fits_tensor_or_array(frames: int) -> None:
    assert picture(strip(torch.zeros(frames, 3, 24, 24, dtype=torch.uint8))).height == FRAME_HEIGHT
