"""Stages have their own time, and cost next to nothing while nobody measures."""

from __future__ import annotations

import time

import pytest

from hybridvideo.data import stages
from hybridvideo.data.stages import measured, stage


def spin(seconds: float) -> None:
    """Use the processor for so long."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_stage_has_its_own_time_without_that_of_the_stages_inside() -> None:
    with measured() as clock, stage("decode"):
        spin(0.02)
        with stage("convert"):
            spin(0.05)
    assert clock.seconds["convert"] > clock.seconds["decode"] > 0


def test_nothing_is_measured_after_the_run_even_if_it_fails() -> None:
    with pytest.raises(ValueError, match="fails"), measured() as clock:
        raise ValueError("fails")
    with stage("decode"):
        spin(0.01)
    assert clock.seconds == {} and stages._clock is None


def test_a_stage_that_fails_is_counted_and_the_next_one_is_right() -> None:
    with measured() as clock:
        with pytest.raises(ValueError, match="fails"), stage("decode"):
            spin(0.02)
            raise ValueError("fails")
        with stage("convert"):
            spin(0.02)
    assert clock.seconds["decode"] >= 0.019 and clock.seconds["convert"] >= 0.019


def test_a_stage_that_nobody_measures_makes_no_object() -> None:
    assert stage("decode") is stage("convert")
