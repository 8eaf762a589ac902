"""Whose mail is taken, what is made of it, and how many may come at once."""

import base64
import binascii
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.content import tokens
from pipeline.errors import InvalidSettings
from pipeline.gateway.smtp.claims import MAX_SCANNED_BYTES, MAX_TAGS_VERIFIED, has_own_tag
from pipeline.gateway.smtp.connection_limits import MAX_CONNECTIONS_PER_NETWORK, SmtpConnectionLimits
from pipeline.gateway.smtp.envelope import MESSAGE_KEPT_BYTES, is_accepted_address, mail_record
from pipeline.gateway.smtp.listener import TlsCertificate
from pipeline.runtime.signing import Signer
from pipeline.settings import Settings
from pipeline.webhooks.base import TokenReaders
from pipeline.webhooks.proofs import token_readers
from tests.conftest import SECRET
from tests.support.inbound import DOMAIN, EMAIL_ID, forged, message_id, unsubscribe, verp
from tests.support.smtp_receiver import certificate

OTHER_SECRET = "another-secret-of-at-least-32-characters"
OTHERS = tokens.verp_address(Signer(OTHER_SECRET, "verp"), EMAIL_ID, DOMAIN)


def base64_lines(text: str) -> bytes:
    return base64.encodebytes(text.encode()).replace(b"\n", b"\r\n")


def quoted_printable(text: str) -> bytes:
    return binascii.b2a_qp(text.encode()).replace(b"@", b"=40")


def test_return_paths_unsubscribe_addresses_and_roles_of_our_domain_are_ours() -> None:
    local = verp().partition("@")[0]
    for address in (verp(), unsubscribe(), f"<{verp()}>", verp().upper(), f"Postmaster@{DOMAIN}", f"fbl@{DOMAIN}"):
        assert is_accepted_address(address, DOMAIN, token_readers(SECRET))
    for address in (
        "",
        "@",
        local,
        f"{local}@other.example",
        f"{local}@sub.{DOMAIN}",
        f"{local}@{DOMAIN}.example",
        f"x{local}@{DOMAIN}",
        f"{local}x@{DOMAIN}",
        f"a@b@{DOMAIN}",
        f"anna@{DOMAIN}",
        f"postmaster+x@{DOMAIN}",
        forged(verp()),
        forged(unsubscribe()),
        OTHERS,
    ):
        assert not is_accepted_address(address, DOMAIN, token_readers(SECRET)), address


def test_return_paths_of_the_previous_secret_are_ours_until_it_is_given_up() -> None:
    assert is_accepted_address(OTHERS, DOMAIN, token_readers(SECRET, OTHER_SECRET))
    assert is_accepted_address(verp(), DOMAIN, token_readers(SECRET, OTHER_SECRET))
    assert not is_accepted_address(forged(OTHERS), DOMAIN, token_readers(SECRET, OTHER_SECRET))
    assert token_readers("", "").verp(tokens.verp_address(Signer("", "verp"), EMAIL_ID, DOMAIN)) is None


@pytest.mark.parametrize("tag", [verp(), unsubscribe(), message_id(), verp().upper()])
@pytest.mark.parametrize("written", [str.encode, base64_lines, quoted_printable], ids=lambda one: one.__name__)
def test_a_message_is_claimed_by_a_tag_wherever_it_stands(tag: str, written: Callable[[str], bytes]) -> None:
    body = f"Received: from a.example\r\nMessage-ID: {tag}\r\nSubject: x\r\n" + "y" * 100
    head = b"From: a@b.example\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    assert has_own_tag(head + written(body), token_readers(SECRET))
    assert not has_own_tag(head + written(body.replace(tag, forged(tag))), token_readers(SECRET))
    assert has_own_tag(head + written(body.replace(tag, forged(tag))), None)
    assert not has_own_tag(head + written(body.replace(tag, "<1@b.example>")), None)


def test_few_forged_tags_hide_no_real_one_and_many_are_not_all_verified() -> None:
    asked: list[str] = []

    def never(text: str) -> None:
        asked.append(text)

    many = b" ".join(forged(verp(), number).encode() for number in range(3 * MAX_TAGS_VERIFIED))
    assert not has_own_tag(many, TokenReaders(verp=never))
    assert len(asked) == MAX_TAGS_VERIFIED
    late = b"x" * MAX_SCANNED_BYTES + message_id().encode()
    assert not has_own_tag(late, token_readers(SECRET))
    few = b" ".join(forged(verp(), number).encode() for number in range(MAX_TAGS_VERIFIED - 1))
    assert has_own_tag(few + b" " + message_id().encode(), token_readers(SECRET))


def test_a_record_names_its_message_and_can_hold_no_second_header() -> None:
    once, again = (
        mail_record(b"x", 1, to="a@b\r\nx-truncated: 9", sender="<>"),
        mail_record(b"x", 2, to="a@bx-truncated:9"),
    )
    assert dict(once.headers) == {"x-envelope-to": "a@bx-truncated:9", "x-envelope-from": "<>"}
    assert once.webhook_id == again.webhook_id != mail_record(b"y", 1).webhook_id
    cut = mail_record(b"x" * (MESSAGE_KEPT_BYTES + 1), 1, size=5_000_000)
    assert (len(cut.body), dict(cut.headers)) == (MESSAGE_KEPT_BYTES, {"x-truncated": "5000000"})
    assert mail_record(b"x" * MESSAGE_KEPT_BYTES, 1).headers == ()


def test_one_sender_leaves_room_for_others_and_an_ipv6_network_is_one() -> None:
    doors = SmtpConnectionLimits(MAX_CONNECTIONS_PER_NETWORK + 2, 0, lambda: 0.0)
    assert [doors.admit("192.0.2.1") for _ in range(MAX_CONNECTIONS_PER_NETWORK + 1)] == [
        True
    ] * MAX_CONNECTIONS_PER_NETWORK + [False]
    assert doors.admit("192.0.2.2")
    assert doors.admit("2001:db8::1")
    assert not doors.admit("192.0.2.3")
    doors.leave("192.0.2.1")
    assert doors.open_connections == MAX_CONNECTIONS_PER_NETWORK + 1
    many = SmtpConnectionLimits(1_000, 0, lambda: 0.0)
    assert [many.admit(f"2001:db8::{n:x}") for n in range(MAX_CONNECTIONS_PER_NETWORK + 1)].count(
        True
    ) == MAX_CONNECTIONS_PER_NETWORK


def test_a_sender_that_writes_too_much_waits_while_others_do_not() -> None:
    now = 0.0
    doors = SmtpConnectionLimits(9, 2.0, lambda: now)
    assert [doors.admit_message("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert doors.admit_message("192.0.2.2")
    now = 0.5
    assert [doors.admit_message("192.0.2.1") for _ in range(2)] == [True, False]


def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(tmp_path: Path) -> None:
    certificate(tmp_path)
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    files = TlsCertificate(Settings(inbound_certificate=str(pem), inbound_certificate_key=str(key)))
    first = files.context()
    assert first is files.context() is not None
    certificate(tmp_path)
    os.utime(pem, (1, 1))
    second = files.context()
    assert second is not first
    pem.write_text("half of it")
    os.utime(pem, (2, 2))
    assert files.context() is second
    with pytest.raises(InvalidSettings, match="INBOUND_CERTIFICATE"):
        TlsCertificate(Settings(inbound_certificate=str(pem)))
    assert TlsCertificate(Settings()).context() is None
