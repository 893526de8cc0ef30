"""Where decoding starts for a frame, and what becomes of packets that do not say when they are shown."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from hybridvideo.data.decode.packets import Packets, index_by_decoding, index_by_times


def packets(pts: list[int | None], dts: list[int | None], keys: list[int], hidden: set[int] | None = None) -> Packets:
    return Packets(pts=pts, dts=dts, durations=[1] * len(pts), keys=keys, hidden=hidden or set())


def test_a_frame_shown_before_a_key_but_stored_behind_it_starts_at_the_key_before() -> None:
    # stored I0 P3 b1 b2 I6 b4 b5 P8 b7: frames 4 and 5 lean on what stands before I6
    index = index_by_times(packets([0, 3, 1, 2, 6, 4, 5, 8, 7], list(range(9)), keys=[0, 4]))
    starts = [key.packet if (key := index.key_for(frame)) is not None else None for frame in range(9)]
    assert starts == [0, 0, 0, 0, 0, 0, 4, 4, 4]
    assert index.packets_N == [0, 2, 3, 1, 5, 6, 4, 8, 7]


def test_decoding_may_start_at_a_key_that_is_never_shown() -> None:
    index = index_by_times(packets([-2, -1, 0, 1], [-2, -1, 0, 1], keys=[0], hidden={0, 1}))
    key = index.key_for(0)
    assert key is not None
    assert (len(index), key.packet, key.frame) == (2, 0, 0)


def test_without_any_key_decoding_starts_with_the_file() -> None:
    assert index_by_times(packets([0, 1], [0, 1], keys=[])).key_for(1) is None


def test_times_in_the_order_of_storage_are_dealt_out_in_the_order_of_presentation() -> None:
    made_up = packets([1, 2, 3, 4], [0, 1, 2, 3], keys=[0])
    index = index_by_decoding(made_up, [0, 2, 1, 3], step=1)
    np.testing.assert_allclose(index.seconds(Fraction(1, 10)), [0, 0.1, 0.2, 0.3])
    assert (index.packets_N, index.by_time) == ([0, 2, 1, 3], False)


def test_frames_without_any_times_are_spaced_by_the_step() -> None:
    index = index_by_decoding(packets([None] * 3, [None] * 3, keys=[0]), [0, 1, 2], step=40)
    assert index.ticks_N.tolist() == [0, 40, 80]
    assert index.keys == []


def test_packets_that_share_a_time_are_not_timed() -> None:
    assert packets([0, 1, 2], [0, 1, 2], keys=[0]).timed()
    assert not packets([0, 1, 1], [0, 1, 2], keys=[0]).timed()
    assert not packets([0, None, 1], [0, 1, 2], keys=[0]).timed()
    assert packets([0, None, 1], [0, 1, 2], keys=[0], hidden={1}).timed()
