"""Extract SMTP reply codes and enhanced status codes from replies that providers and bounce mails quote."""

import re
from typing import Final

# RFC 3464 §2.3.6 puts a type before the reply: "smtp; 550 5.1.1 …". Providers pass it on, or prepend other words:
# "RecipientError: 550 …" (Brevo), "sent (250 2.0.0 OK …)" (Mailjet).
_LABEL: Final = r"(?:smtp;|[a-z]{1,40}Error:|[a-z ]{1,40}\()"
_CODE: Final = re.compile(rf"^\W{{0,40}}(?:{_LABEL}\W{{0,40}})?([245]\d\d)(?![\d.])", re.IGNORECASE)
_ENHANCED: Final = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")


def reply_code(*texts: str) -> int:
    """Return the SMTP reply code (RFC 5321 §4.2) of the first text that begins with one; 0 if none does."""
    return next((int(match[1]) for text in texts if (match := _CODE.match(text))), 0)


def enhanced_code(*texts: str) -> str:
    """Return the enhanced status code (RFC 3463), such as ``5.1.1``, of the first text that contains one, or ""."""
    return next((match[1] for text in texts if (match := _ENHANCED.search(text))), "")
