"""What a provider calls a message in, the name under which its ack and its events meet out. Pure.

One provider tells an id in two spellings: one in the answer to the send, the other in its events.
"""

import hashlib
import re
from typing import Final

from projections.text import storable_text

_MAX_ID_CHARS: Final = 200
"""What an index can hold comes from outside: beyond this an id is known by its hash."""

# "<010f…-000000@eu-west-1.amazonses.com>" in the header, bare in the SMTP reply, the API's answer and the events.
_SES: Final = re.compile(r"@(?:[a-z0-9-]+\.)?amazonses\.com\Z", re.IGNORECASE)
# X-Message-Id and "queued as" say "tC4LGVjZTgi116GN5ZRO6Q", sg_message_id adds who handled it: ".filterdrecv-p3iad2-…",
# ".recvd-5f54b5d587-…", and by and by others. What is added differs from event to event.
_SENDGRID: Final = re.compile(r"\A([\w-]{22})\.\S+\Z", re.ASCII)
_SENDGRID_EARLIER: Final = re.compile(r"\.(?:filter|recvd)\S*\Z")
_UUID: Final = re.compile(r"\A[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\Z", re.IGNORECASE)


def match_key(provider_message_id: str) -> str:
    """The one spelling of an id; empty for none."""
    name = provider_message_id.strip(" \t\r\n<>")
    name = _SES.sub("", name)
    name = _SENDGRID_EARLIER.sub("", _SENDGRID.sub(r"\1", name))
    if _UUID.match(name):
        return name.lower()
    name = storable_text(name)
    return name if len(name.encode()) <= _MAX_ID_CHARS else hashlib.sha256(name.encode()).hexdigest()
