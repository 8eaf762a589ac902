"""What mail servers say, in the provider's telling: an SMTP reply's text in, its codes out."""

import re
from typing import Final

# RFC 3464 §2.3.6 has a type before the reply: "smtp; 550 5.1.1 …"; providers hand it on, or put words of their own
# before it: "RecipientError: 550 …" (Brevo), "sent (250 2.0.0 OK …)" (Mailjet).
_LABEL: Final = r"(?:smtp;|[a-z]{1,40}Error:|[a-z ]{1,40}\()"
_CODE: Final = re.compile(rf"^\W{{0,40}}(?:{_LABEL}\W{{0,40}})?([245]\d\d)(?![\d.])", re.IGNORECASE)
_ENHANCED: Final = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")


def reply_code(*texts: str) -> int:
    """The SMTP reply code (RFC 5321 §4.2) that the first text with one begins with; 0 if none does."""
    return next((int(found[1]) for text in texts if (found := _CODE.match(text))), 0)


def enhanced_code(*texts: str) -> str:
    """The enhanced status code (RFC 3463), such as ``5.1.1``, of the first text with one."""
    return next((found[1] for text in texts if (found := _ENHANCED.search(text))), "")
