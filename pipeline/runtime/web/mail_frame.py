"""Show the HTML of a message that somebody else wrote, so that it neither loads nor runs anything.

The sandbox's inbox and the console serve it as a document of its own, in a sandboxed frame.
"""

import re
from typing import Final

MAX_HTML_CHARS: Final = 2_000_000
MAIL_CSP: Final = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""For a message's HTML, in the frame or alone: its styles and embedded images, but no script, request or form."""

# Chromium opens a connection to the host that such an element names, even where the policy forbids the request.
_CONNECTING_TAG: Final = re.compile("<(?=link|i?frame|object|embed|portal|fencedframe)", re.IGNORECASE)


def mail_document(html: str) -> str:
    """Return the document of a message's HTML, to be served with :data:`MAIL_CSP`."""
    return "<!doctype html><meta charset=utf-8>" + _CONNECTING_TAG.sub("<x-", html[:MAX_HTML_CHARS])
