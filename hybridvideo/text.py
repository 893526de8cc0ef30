"""Text of others (file names, class names, messages of libraries) as it may be shown to a person."""

from __future__ import annotations

import unicodedata

# Categories of Unicode that a terminal or a page does not show but obeys, or that are no characters at all:
# controls, invisible formatting (direction, joiners), line and paragraph separators, half characters.
HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def shown(text: str) -> str:
    r"""The text with what would act on a terminal instead of being seen escaped, as \x1b or \u202e; on one line."""
    return "".join(escaped(character) if unicodedata.category(character) in HIDDEN else character for character in text)


def escaped(character: str) -> str:
    r"""As Python writes it: \n, \x1b, \u202e, \udc80."""
    return ascii(character)[1:-1]
