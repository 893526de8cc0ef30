"""No frame is decoded for nothing: what nobody asked for and nothing refers to is dropped, each frame comes once."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hybridvideo.data.decode import Framing, VideoReader
from tests.videos import numbers, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 frames, a key frame every 60, two B-frames between P-frames, of which none refers to another B-frame."""
    options = {"x264-params": "scenecut=0:b-adapt=0:b-pyramid=none", "preset": "veryfast", "bf": "2"}
    return write_video(tmp_path_factory.mktemp("economy") / "video.mp4", 120, gop=60, options=options)


def test_frames_nothing_refers_to_are_dropped_on_the_way(video: Path) -> None:
    with VideoReader(video) as reader:
        assert numbers(reader.frames_at([50]).frames_TCHW) == [50]
        assert reader.frames_decoded <= 50 / 3 + 4


def test_the_decoder_is_not_fed_beyond_the_last_frame(video: Path) -> None:
    with VideoReader(video) as reader:
        reader.frames_at(range(30))
        assert reader.frames_decoded <= 31


def test_a_request_across_a_key_frame_seeks_to_it(video: Path) -> None:
    with VideoReader(video) as reader:
        assert numbers(reader.frames_at([0, 62]).frames_TCHW) == [0, 62]
        assert reader.frames_decoded <= 1 + 5


def test_reading_on_continues(video: Path) -> None:
    """The first request ends by draining the decoder; from the second on nothing is decoded twice."""
    with VideoReader(video) as reader:
        for start in range(0, 60, 6):
            wanted = list(range(start, start + 6))
            assert numbers(reader.frames_at(wanted).frames_TCHW) == wanted
        assert reader.frames_decoded <= 6 + 60 + 3


def test_strided_parts_of_a_video_are_read_on_too(video: Path) -> None:
    with VideoReader(video) as reader:
        for start in range(0, 60, 20):
            wanted = list(range(start, start + 20, 4))
            assert numbers(reader.frames_at(wanted).frames_TCHW) == wanted
        assert reader.frames_decoded <= 20 + 60


def test_frames_one_by_one_are_decoded_once(video: Path) -> None:
    with VideoReader(video) as reader:
        assert [numbers(reader.frames_at([i]).frames_TCHW)[0] for i in range(40)] == list(range(40))
        assert reader.frames_decoded <= 1 + 40 + 4


def test_the_same_frame_again_costs_nothing(video: Path) -> None:
    with VideoReader(video) as reader:
        first = reader.frames_at([33]).frames_TCHW
        before = reader.frames_decoded
        assert torch.equal(reader.frames_at([33]).frames_TCHW, first)
        assert reader.frames_decoded == before


def test_any_order_of_requests_gives_the_same_frames(video: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    with VideoReader(video) as reader:
        for _ in range(40):
            start = int(torch.randint(0, 110, (), generator=generator))
            stride = int(torch.randint(1, 5, (), generator=generator))
            wanted = list(range(start, min(start + 8 * stride, 120), stride))
            assert numbers(reader.frames_at(wanted).frames_TCHW) == wanted


def test_less_deblocking_is_for_frames_that_nothing_refers_to(tmp_path: Path) -> None:
    """Noise at a low rate gives the filter work; P and I frames stay as they are, B-frames change a little."""
    path = write_noise(tmp_path / "noise.mp4")
    with VideoReader(path) as reader:
        exact = reader.frames_at(range(24)).frames_TCHW.int()
        rough = reader.clips_at([(range(24), Framing())], exact=False)[0].frames_TCHW.int()
        again = reader.frames_at(range(24)).frames_TCHW.int()
    changed = (exact != rough).flatten(1).any(1).tolist()
    assert torch.equal(exact, again)
    assert changed[::3] == [False] * 8 and any(changed)
    assert (exact - rough).abs().float().mean() < 2


def write_noise(path: Path) -> Path:
    options = {"x264-params": "scenecut=0:b-adapt=0:b-pyramid=none:qp=38", "bf": "2"}
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (40, 12, 16, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 128, 96, "yuv420p", 60
        for shift in range(25):
            image = np.ascontiguousarray(np.roll(coarse[0], shift * 3, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path
