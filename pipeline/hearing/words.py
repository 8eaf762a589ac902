"""What mail servers say, in the provider's telling: an SMTP reply's text in, its codes out."""

import re
from typing import Final

_CODE: Final = re.compile(r"^\W*([245]\d\d)(?![\d.])")
_ENHANCED: Final = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")


def reply_code(*texts: str) -> int:
    """The SMTP reply code (RFC 5321 §4.2) that the first text with one begins with; 0 if none does."""
    return next((int(found[1]) for text in texts if (found := _CODE.match(text))), 0)


def enhanced_code(*texts: str) -> str:
    """The enhanced status code (RFC 3463), such as ``5.1.1``, of the first text with one."""
    return next((found[1] for text in texts if (found := _ENHANCED.search(text))), "")
