"""Text for a person: that of others (file names, class names, messages of libraries) made safe to show, and times."""

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


def one_line(error: BaseException) -> str:
    """The message of an exception without its line breaks."""
    return " ".join(str(error).split())


def encodable(text: str) -> str:
    r"""The text with what UTF-8 cannot hold, such as the bytes of a file name in another encoding, as \udcXX."""
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
