"""Where an email's reader unsubscribes in, the headers that tell mail programs so out (RFC 2369, RFC 8058). Pure."""

from collections.abc import Iterable
from typing import Final

UnsubscribeHeaders = tuple[tuple[str, str], ...]

ONE_CLICK_FIELD: Final = ("List-Unsubscribe", "One-Click")
"""The one field that a mail program posts, and what it says (RFC 8058 §3.2)."""


def headers(own: Iterable[tuple[str, str]], public_url: str, token: str, address: str) -> UnsubscribeHeaders:
    """`List-Unsubscribe` by one click and by mail; none beside the sender's ``own``, which says where it wants them.

    Mail programs post to https only; below an http address they are left with the mail.
    """
    if any(name.lower() in ("list-unsubscribe", "list-unsubscribe-post") for name, _ in own):
        return ()
    places = f"<{public_url.rstrip('/')}/u/{token}>,\r\n <mailto:{address}?subject=unsubscribe>"
    return ("List-Unsubscribe", places), ("List-Unsubscribe-Post", "=".join(ONE_CLICK_FIELD))
