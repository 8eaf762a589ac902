"""Makes text from outside storable in Postgres; used wherever such a text is written or looked up. Pure."""

import re
from typing import Final

REPLACEMENT: Final = "\ufffd"
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def storable_text(value: str) -> str:
    """Return the text with U+FFFD for each NUL, which no column takes, and each lone surrogate, which UTF-8 lacks."""
    if value.isascii() and "\x00" not in value:
        return value
    return _UNSTORABLE.sub(REPLACEMENT, value)
