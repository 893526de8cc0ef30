"""Cutting and scaling on the way to RGB gives what cutting and scaling RGB gives, whichever way a frame is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hybridvideo.data.decode import Framing, VideoReader
from hybridvideo.data.decode.frames import framed
from hybridvideo.data.decode.to_rgb import stored_box, turned
from hybridvideo.errors import UserError
from tests.videos import numbers, write_video

SIZE = (192, 96)  # width, height


@pytest.fixture(scope="module", params=[0, 90, 180, 270])
def turned_video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turned")
    return write_video(folder / "video.mp4", 40, size=SIZE, rotation=request.param)


def frames(path: Path, indices: list[int], framing: Framing | None = None) -> torch.Tensor:
    with VideoReader(path) as reader:
        return reader.frames_at(indices, framing or Framing()).frames_TCHW


def difference(path: Path, framing: Framing) -> float:
    """Mean grey levels between the framing by the decoder and of its RGB frames."""
    indices = list(range(0, 40, 5))
    whole = frames(path, indices).permute(0, 2, 3, 1).contiguous().numpy()
    expected = framed(whole, framing)
    found = frames(path, indices, framing).permute(0, 2, 3, 1).numpy()
    assert found.shape == expected.shape
    return float(np.abs(found.astype(np.int16) - expected).mean())


def test_scaled_frames_still_say_their_number(turned_video: Path) -> None:
    wanted = [3, 17, 17, 30, 4]
    assert numbers(frames(turned_video, wanted, Framing(size=(36, 72)))) == wanted


def test_the_right_quarter_is_cut_out_of_a_turned_frame(turned_video: Path) -> None:
    for box in ((0, 0, 48, 96), (48, 96, 48, 96), (10, 22, 60, 84)):
        assert difference(turned_video, Framing(box)) < 1e-9


def test_cutting_and_scaling_in_one_go_is_close_to_doing_it_on_rgb(turned_video: Path) -> None:
    assert difference(turned_video, Framing((8, 20, 64, 100), (40, 50))) < 2.5
    assert difference(turned_video, Framing(None, (56, 112))) < 2.5


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuv420p10le", "gray"])
def test_every_pixel_format_is_cut_and_scaled(tmp_path: Path, pixel_format: str) -> None:
    codec = "ffv1" if pixel_format == "gray" else "libx264"
    path = write_video(tmp_path / "video.mkv", 40, size=SIZE, pixel_format=pixel_format, codec=codec)
    assert difference(path, Framing((16, 32, 64, 128), (32, 64))) < 2.5
    assert numbers(frames(path, [5, 9], Framing(size=(32, 64)))) == [5, 9]


def test_boxes_move_to_the_chroma_grid_by_a_pixel_at_most(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 40, size=SIZE)
    assert torch.equal(frames(path, [7], Framing((11, 21, 40, 60))), frames(path, [7], Framing((10, 20, 40, 60))))


def test_a_box_in_a_stored_frame_is_where_the_turned_picture_has_it() -> None:
    stored = np.arange(5 * 7).reshape(5, 7)
    for turns in range(4):
        upright = np.rot90(stored, turns)
        assert turned((5, 7), turns) == upright.shape
        top, left, height, width = 1, 2, 3, 2
        row, column, rows, columns = stored_box((top, left, height, width), (5, 7), turns)
        cut = np.rot90(stored[row : row + rows, column : column + columns], turns)
        assert np.array_equal(cut, upright[top : top + height, left : left + width])


@pytest.mark.parametrize("framing", [Framing((0, 0, 97, 10)), Framing((-1, 0, 5, 5)), Framing(size=(0, 8))])
def test_what_does_not_fit_the_frame_is_refused(tmp_path: Path, framing: Framing) -> None:
    path = write_video(tmp_path / "video.mp4", 10, size=SIZE)
    with pytest.raises(UserError, match=r"frame|scaled"):
        frames(path, [0], framing)


def test_clips_of_one_pass_are_those_of_several(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 40, size=SIZE)
    requests = [([5, 3, 5], Framing()), (list(range(20, 36, 2)), Framing((0, 0, 48, 48), (24, 24)))]
    with VideoReader(path) as reader:
        together = reader.clips_at(requests)
    for clip, (indices, framing) in zip(together, requests, strict=True):
        assert torch.equal(clip.frames_TCHW, frames(path, indices, framing))
        assert clip.times_T == pytest.approx([index / 25 for index in indices])
