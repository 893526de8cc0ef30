"""Text of others is shown, not obeyed; times are short."""

from __future__ import annotations

import pytest

from hybridvideo.text import duration, encodable, one_line, shown


@pytest.mark.parametrize("text", ["a.mp4", "ünïcode 🎬 視頻.mp4", "", "a b\\c", "Bergsteigen (Fels)"])
def test_what_can_be_seen_stays(text: str) -> None:
    assert shown(text) == text


def test_what_acts_on_a_terminal_is_escaped() -> None:
    assert shown("\x1b[31mred\x1b[0m") == r"\x1b[31mred\x1b[0m"
    assert shown("a\nb\rc\td\x9be") == r"a\nb\rc\td\x9be"
    assert shown("\u202egpj.exe\u2066\u200b\u2028") == r"\u202egpj.exe\u2066\u200b\u2028"
    assert shown("a\u3164\u115f\u034f\ufe0f") == r"a\u3164\u115f\u034f\ufe0f"
    assert shown("bad\udc80name") == r"bad\udc80name"


def test_an_exception_is_one_line() -> None:
    assert one_line(ValueError("wrong:\n   this\r\n\tand that ")) == "wrong: this and that"


def test_a_name_that_utf_8_cannot_hold_is_spelled_out() -> None:
    assert encodable("bad\udc80name é") == r"bad\udc80name é"


@pytest.mark.parametrize(
    "seconds, said",
    [(0, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (60, "1 min"), (125.4, "2 min 5 s"), (3599, "59 min 59 s"),
     (3599.7, "1 h"), (3629, "1 h"), (90061, "25 h 1 min")],
)  # fmt: skip
def test_a_time_is_reported_in_two_units_at_most(seconds: float, said: str) -> None:
    assert duration(seconds) == said
