"""Text of others (file names, class names, messages of libraries) as it may be shown to a person."""

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
    r"""The text with what would act on a terminal instead of being seen escaped, as \x1b or \u202e; on one line."""
    return "".join(escaped(character) if is_hidden(character) else character for character in text)


def is_hidden(character: str) -> bool:
    """Whether a character acts, or takes part in a name without being seen."""
    return unicodedata.category(character) in HIDDEN or BLANK.match(character) is not None


def escaped(character: str) -> str:
    r"""As Python writes it: \n, \x1b, \u202e, \udc80."""
    return ascii(character)[1:-1]
