"""Text for people: untrusted text (file names, class names, messages of libraries) made safe to show, and durations."""

from __future__ import annotations

import re
import unicodedata

# Categories of Unicode that a terminal or a page does not show but obeys, or that are no characters at all:
# controls, invisible formatting (direction, joiners), line and paragraph separators, half characters.
HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}
# Of the other categories, what Unicode's Default_Ignorable_Code_Point lists: fillers, joiners, variation selectors.
BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


def shown(text: str) -> str:
    r"""Return the text on one line, with whatever a terminal would obey rather than show escaped, as \x1b or \u202e."""
    return "".join(escaped(character) if is_hidden(character) else character for character in text)


def is_hidden(character: str) -> bool:
    """Return whether a character acts, or is part of a name without being seen."""
    return unicodedata.category(character) in HIDDEN or BLANK.match(character) is not None


def escaped(character: str) -> str:
    r"""Return a character as Python writes it: \n, \x1b, \u202e, \udc80."""
    return ascii(character)[1:-1]


def one_line(error: BaseException) -> str:
    """Return the message of an exception without its line breaks."""
    return " ".join(str(error).split())


def encodable(text: str) -> str:
    r"""Return the text with what UTF-8 cannot represent, such as bytes of odd file names, as \udcXX."""
    return text.encode("utf-8", "backslashreplace").decode()


def duration(seconds: float) -> str:
    """`125.4` -> `2 min 5 s`; two units at most, those that are 0 left out."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        parts = zip(divmod(whole, 60), ("min", "s"), strict=True)
    else:
        parts = zip(divmod(round(seconds / 60), 60), ("h", "min"), strict=True)
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
