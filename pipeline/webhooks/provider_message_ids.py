"""Normalize providers' message ids, so that an ack and the events of the same message have the same key.

Some providers spell an id in two ways: one in the response to the send, another in their events. The worker, the
dispatcher and `mailfold renormalize` call it.
"""

import hashlib
import re
from typing import Final

from projections.text import storable_text

_MAX_ID_BYTES: Final = 200
"""Bytes of the longest id that is stored as it is, as an index entry is limited; a longer one is replaced by its
hash."""

# "<010f…-000000@eu-west-1.amazonses.com>" in the header, without the domain in the SMTP reply, the API's response and
# the events.
_SES: Final = re.compile(r"@(?:[a-z0-9-]+\.)?amazonses\.com\Z", re.IGNORECASE)
# X-Message-Id and "queued as" have "tC4LGVjZTgi116GN5ZRO6Q"; sg_message_id appends the server that handled it, such as
# ".filterdrecv-p3iad2-…" or ".recvd-5f54b5d587-…". The suffix differs from event to event.
_SENDGRID: Final = re.compile(r"\A([\w-]{22})\.\S+\Z", re.ASCII)
_SENDGRID_EARLIER: Final = re.compile(r"\.(?:filter|recvd)\S*\Z")
_UUID: Final = re.compile(r"\A[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\Z", re.IGNORECASE)


def match_key(provider_message_id: str) -> str:
    """Return the normalized id; empty if there is none."""
    name = provider_message_id.strip(" \t\r\n<>")
    name = _SES.sub("", name)
    name = _SENDGRID_EARLIER.sub("", _SENDGRID.sub(r"\1", name))
    if _UUID.match(name):
        return name.lower()
    name = storable_text(name)
    return name if len(name.encode()) <= _MAX_ID_BYTES else hashlib.sha256(name.encode()).hexdigest()
