"""An event of a type that we do not know is kept, however it spells its time; one that we know must have a time."""

import msgspec
import pytest

from pipeline.errors import Unrecognised
from pipeline.webhooks.base import EventContext
from pipeline.webhooks.providers.registry import ADAPTERS
from topics.events import EventKind

CONTEXT = EventContext(provider="p", received_at=1_700_000_000_000)
# A known type and a new one of each provider, both without a time that could be read.
SHAPES: dict[str, tuple[object, object]] = {
    "brevo": ({"event": "delivered"}, {"event": "brand_new"}),
    "mailersend": (
        {"type": "activity.sent", "data": {"created_at": "soon"}},
        {"type": "activity.brand_new", "data": {"created_at": "soon"}},
    ),
    "mailgun": ({"event": "delivered"}, {"event": "brand_new"}),
    "mailjet": ({"event": "sent", "time": "soon"}, {"event": "brand_new", "time": "soon"}),
    "mailtrap": ({"event": "delivery"}, {"event": "brand_new", "timestamp": None}),
    "mandrill": ({"event": "send"}, {"event": "brand_new", "ts": "2024-05-01"}),
    "postal": ({"event": "MessageSent", "payload": {}}, {"event": "BrandNew", "payload": {}}),
    "postmark": ({"RecordType": "Delivery"}, {"RecordType": "BrandNew", "OccurredAt": "2024-05-01T10:00:00Z"}),
    "resend": ({"type": "email.sent", "data": {}}, {"type": "email.brand_new", "data": {}}),
    "sendgrid": ({"event": "delivered"}, {"event": "brand_new", "timestamp": "2024-05-01T10:00:00Z"}),
    "ses": ({"event": {"eventType": "Delivery"}}, {"event": {"eventType": "BrandNew"}}),
    "sparkpost": ({"msys": {"message_event": {"type": "delivery"}}}, {"msys": {"new_event": {"type": "brand_new"}}}),
}


def test_every_adapter_has_a_shape() -> None:
    assert set(SHAPES) == set(ADAPTERS) - {"mail", "sandbox"}


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_new_type_without_a_readable_time_is_kept_as_unknown(kind: str) -> None:
    known_event, new_event = (msgspec.json.encode(shape) for shape in SHAPES[kind])
    event = ADAPTERS[kind].normalize(new_event, CONTEXT)
    assert (event.kind, event.occurred_at) == (EventKind.UNKNOWN, CONTEXT.received_at)
    with pytest.raises(Unrecognised):
        ADAPTERS[kind].normalize(known_event, CONTEXT)
