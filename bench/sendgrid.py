"""Signed SendGrid webhooks of a thousand events each, as its documentation shows them. Pure."""

import base64
import json
import time
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from bench import material
from pipeline.content.tokens import echo_tag
from pipeline.runtime.secrets.signing import Signer
from pipeline.webhooks.base import EMAIL_ID_KEY, EMAIL_TAG_KEY

EVENTS = 1_000
_AGENT = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"


def events(number: int, signer: Signer) -> list[dict[str, object]]:
    """Return five events of one email, from processed to click, with the texts of an SMTP server."""
    email_id = material.email_id(number)
    common: dict[str, object] = {
        "email": f"player{number}@example.test",
        "timestamp": material.NOW // 1000 + number % 60,
        "smtp-id": f"<14c5d75ce93.dfd.{number}@mail.example.test>",
        "sg_message_id": f"14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.{number}",
        "category": ["offers", "weekly"],
        EMAIL_ID_KEY: email_id,
        EMAIL_TAG_KEY: echo_tag(signer, email_id),
    }
    told: tuple[dict[str, object], ...] = (
        {"event": "processed"},
        {"event": "deferred", "response": "450 4.2.1 greylisted, come back in 300 seconds", "attempt": "1", "tls": 1},
        {
            "event": "delivered",
            "response": "250 2.0.0 OK 1715680000 af79cd13be357-7si9876543",
            "ip": "192.0.2.7",
        },
        {"event": "open", "useragent": _AGENT, "ip": "198.51.100.9", "sg_machine_open": False},
        {
            "event": "click",
            "useragent": _AGENT,
            "ip": "198.51.100.9",
            "url": f"https://brand.test/offer?u={number}",
        },
    )
    return [
        common | one | {"sg_event_id": f"ZGVsaXZlcmVkLTAtMTIzNDU2{number:08d}{part}"} for part, one in enumerate(told)
    ]


def body(number: int, signer: Signer) -> bytes:
    """Return the body of the ``number``-th webhook, with tags that ``signer`` makes."""
    emails = range(number * EVENTS // 5, (number + 1) * EVENTS // 5)
    # In the order in which they happen, so that the events of one email are apart.
    told = zip(*(events(email, signer) for email in emails), strict=True)
    return json.dumps([event for stage in told for event in stage]).encode()


def signed(key: ec.EllipticCurvePrivateKey, what: bytes) -> Mapping[str, str]:
    """Return the headers of a webhook with its signature."""
    timestamp = str(int(time.time()))
    signature = key.sign(timestamp.encode() + what, ec.ECDSA(hashes.SHA256()))
    return {
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        "Content-Type": "application/json",
    }
