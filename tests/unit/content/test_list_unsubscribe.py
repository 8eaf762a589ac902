"""Tests of the unsubscribe headers and the trap link of a message."""

import email
import email.policy
import re
from dataclasses import replace
from typing import Any

import pytest

from pipeline.admin import Brand, Provider
from pipeline.content import mime, tokens
from pipeline.content.links import with_trap_link
from pipeline.content.text import text_of
from pipeline.dispatch.message import MessageWriter
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.conftest import RING, SECRET
from topics import ids
from topics.contents import MessageContent
from topics.requests import SendRequest

SETTINGS = Settings(secret=SECRET, public_url="https://t.example.com/", mail_domain="m.example.com")
SIGNER = Signer(RING, "unsubscribe")
ID = ids.email_id("acme", "fasttrack", "one")
REQUEST = SendRequest(
    email_id=ID,
    tenant="acme",
    dialect="fasttrack",
    brand="1",
    recipient="anna@example.com",
    subject="Hello",
    identity="one",
    message_id="m",
    recorded_at=1,
)
HTML = MessageContent(html='<html><body><a href="https://shop.example/">shop</a></body></html>')


def encode(content: MessageContent = HTML, **brand: Any) -> email.message.EmailMessage:
    row = replace(Brand("acme", "1", "relay"), **brand)
    outgoing = MessageWriter(SETTINGS, lambda: 1_700_000_000_000).message(
        REQUEST, content, row, Provider("relay", "h", 25)
    )
    raw = mime.encode_message(outgoing)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, email.message.EmailMessage)
    return message


def test_headers_offer_one_click_and_mail_for_the_email() -> None:
    message = encode()
    match = re.fullmatch(
        r"<https://t\.example\.com/u/([\w-]+)>, <mailto:(u-[a-z2-7-]+@m\.example\.com)\?subject=unsubscribe>",
        str(message["List-Unsubscribe"]),
    )
    assert match is not None
    assert tokens.read_unsubscribe_token(SIGNER, match[1]) == ID
    assert tokens.read_unsubscribe_address(SIGNER, match[2]) == ID
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert "anna" not in match[0]


@pytest.mark.parametrize("name", ["List-Unsubscribe", "list-unsubscribe", "LIST-UNSUBSCRIBE-POST"])
def test_own_unsubscribe_header_of_the_sender_is_kept(name: str) -> None:
    message = encode(MessageContent(text="Hello", headers=((name, "<https://shop.example/bye>"),)))
    assert [value for key, value in message.items() if key.lower().startswith("list-unsub")] == [
        "<https://shop.example/bye>"
    ]


def test_brand_may_disable_unsubscribe_headers() -> None:
    assert not [name for name in encode(unsubscribe=False) if name.lower().startswith("list-")]


def test_trap_link_is_added_only_for_brands_with_traps_and_is_invisible() -> None:
    assert "/t/" not in str(encode().get_body(("html",)))
    page = str(encode(trap_link=True).get_body(("html",)).get_content())  # type: ignore[union-attr]
    (trap_link,) = re.findall(r'<a href="https://t\.example\.com/t/([\w-]+)"([^>]*)></a>', page)
    assert tokens.read_trap_token(Signer(RING, "track"), trap_link[0]) == ID
    assert "display:none" in trap_link[1]
    assert 'tabindex="-1"' in trap_link[1]
    assert "/t/" not in str(encode(trap_link=True).get_body(("plain",)))
    assert text_of(with_trap_link("<p>x</p>", SIGNER, ID, "https://t.example.com")).strip() == "x"
