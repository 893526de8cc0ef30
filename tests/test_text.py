"""Text of others is shown, not obeyed."""

from __future__ import annotations

import pytest

from hybridvideo.text import shown


@pytest.mark.parametrize("text", ["a.mp4", "ünïcode 🎬 視頻.mp4", "", "a b\\c", "Bergsteigen (Fels)"])
def test_what_can_be_seen_stays(text: str) -> None:
    assert shown(text) == text


def test_what_acts_on_a_terminal_is_escaped() -> None:
    assert shown("\x1b[31mred\x1b[0m") == r"\x1b[31mred\x1b[0m"
    assert shown("a\nb\rc\td\x9be") == r"a\nb\rc\td\x9be"
    assert shown("\u202egpj.exe\u2066\u200b\u2028") == r"\u202egpj.exe\u2066\u200b\u2028"
    assert shown("a\u3164\u115f\u034f\ufe0f") == r"a\u3164\u115f\u034f\ufe0f"
    assert shown("bad\udc80name") == r"bad\udc80name"
