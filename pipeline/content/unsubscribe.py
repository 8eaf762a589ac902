"""Make the headers by which mail programs offer to unsubscribe (RFC 2369, RFC 8058). Pure.

The dispatcher calls it for each message; the unsubscribe routes read what mail programs post.
"""

from collections.abc import Iterable
from typing import Final

UnsubscribeHeaders = tuple[tuple[str, str], ...]

ONE_CLICK_FIELD: Final = ("List-Unsubscribe", "One-Click")
"""The name and value of the one form field that a mail program posts (RFC 8058 §3.2)."""


def headers(own: Iterable[tuple[str, str]], public_url: str, token: str, address: str) -> UnsubscribeHeaders:
    """Return `List-Unsubscribe` headers for one click and for mail; none if the sender's ``own`` headers have them.

    ``address``: where a mail unsubscribes. Mail programs post to https only; with an http ``public_url`` only the
    mail address works.
    """
    if any(name.lower() in ("list-unsubscribe", "list-unsubscribe-post") for name, _ in own):
        return ()
    targets = f"<{public_url.rstrip('/')}/u/{token}>,\r\n <mailto:{address}?subject=unsubscribe>"
    return ("List-Unsubscribe", targets), ("List-Unsubscribe-Post", "=".join(ONE_CLICK_FIELD))
