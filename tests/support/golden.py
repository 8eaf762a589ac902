"""Read the golden folders of the webhook adapters, and make of each documented payload the request with it.

`tests/golden/<kind>/<case>.json` is what the provider's documentation shows, `<case>.expected.json` has the events that
the adapter must return. Where the documentation shows an event without its envelope, the envelope is added here.
"""

import json
import re
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.webhooks.base import Adapter, EventContext, TokenReaders
from topics.events import DeliveryEvent
from topics.record import EmailId

FOLDER: Final = Path(__file__).parents[1] / "golden"
EMAIL_ID: Final = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
"""The email that the golden events are about."""
OURS: Final = "<ours@mail.example>"
"""The Message-ID of that email."""
RECEIVED_AT: Final = 1513299570123


@dataclass(frozen=True)
class Case:
    """One documented payload."""

    kind: str
    name: str

    @property
    def payload(self) -> bytes:
        """Return the payload as documented."""
        return (FOLDER / self.kind / f"{self.name}.json").read_bytes()

    @property
    def body(self) -> bytes:
        """Return the body as the provider posts it."""
        return WRAPPED.get(self.kind, bytes)(self.payload)

    @property
    def expected(self) -> list[dict[str, Any]]:
        """Return the events that the adapter must return."""
        expected = json.loads((FOLDER / self.kind / f"{self.name}.expected.json").read_text())
        return expected if isinstance(expected, list) else [expected]

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"


def cases(*kinds: str) -> list[Case]:
    """Return every case of these kinds, in a fixed order."""
    return [Case(kind, name) for kind in kinds for name in sorted(_names(kind))]


def events_of_case(adapter: Adapter, case: Case, body: bytes | None = None) -> list[DeliveryEvent]:
    """Return the events that the adapter makes of a case, or of another body in its place."""
    event_context = context(case.kind)
    events = adapter.split(case.body if body is None else body, event_context.headers)
    return [adapter.normalize(event, event_context) for event in events]


def context(kind: str) -> EventContext:
    """Return the context of a provider that is named as its kind; one email of ours is known by its Message-ID.

    The documented payloads have no tags, so that every echoed id is taken as proven.
    """
    readers = TokenReaders(message_id=_read_message_id, is_echo_tag=lambda _email_id, _tag: True)
    return EventContext(provider=kind, received_at=RECEIVED_AT, headers=HEADERS.get(kind, {}), token_readers=readers)


def _read_message_id(message_id: str) -> EmailId | None:
    return EMAIL_ID if message_id == OURS else None


def _names(kind: str) -> Iterator[str]:
    suffix = ".expected.json"
    yield from (path.name.removesuffix(suffix) for path in (FOLDER / kind).glob(f"*{suffix}"))


ADDRESS: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


def addresses(value: Any, name: str = "") -> Iterator[str]:
    """Yield every text in a JSON value that looks like an address and is not a message's id."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from addresses(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from addresses(item, name)
    elif isinstance(value, str) and not re.search(r"(message|smtp).?id$", name, re.IGNORECASE):
        yield from (text for text in ADDRESS.findall(urllib.parse.unquote(value).lower()) if text not in OURS)


def sns(message: str, **other: str) -> dict[str, Any]:
    """Return an SNS notification, as https://docs.aws.amazon.com/sns/latest/dg/http-notification-json.html shows it."""
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
        "Subject": "My First Message",
        "Message": message,
        "Timestamp": "2012-05-02T00:54:06.655Z",
        "SignatureVersion": "1",
        "Signature": "EXAMPLEw6JRN...",
        "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem",
        "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=arn:aws:sns:us-west-2:"
        "123456789012:MyTopic:c9135db0-26c4-47ec-8998-413945fb5a96",
    } | other


def _mailgun(event: bytes) -> bytes:
    """Add the signature of https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhooks."""
    signature = {
        "timestamp": "1529006854",
        "token": "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0",
        "signature": "d2271d12299f6592d9d44cd9d250f0704e4674c30d79d07c47a66f95ce71cf55",
    }
    return b'{"signature": %s, "event-data": %s}' % (json.dumps(signature).encode(), event)


def _form(event: bytes) -> bytes:
    return urllib.parse.urlencode({"mandrill_events": f"[{event.decode()}]"}).encode()


WRAPPED: Final[dict[str, Callable[[bytes], bytes]]] = {
    "sendgrid": lambda event: b"[%s]" % event,
    "ses": lambda event: json.dumps(sns(event.decode())).encode(),
    "mailgun": _mailgun,
    "mandrill": _form,
    "mailtrap": lambda event: b'{"events": [%s]}' % event,
}
HEADERS: Final[dict[str, dict[str, str]]] = {"resend": {"svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek"}}
"""The headers of requests from which adapters read parts of their events, by kind."""
