"""Whose mail is taken, what is made of it, and how many may come at once."""

import base64
import binascii
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.content import tokens
from pipeline.errors import BadSettings
from pipeline.gateway.smtp.claims import MAX_CLAIMS, MAX_SCANNED_BYTES, is_claimed
from pipeline.gateway.smtp.connection_limits import PER_HOST, Doors
from pipeline.gateway.smtp.envelope import KEPT, is_ours, record
from pipeline.gateway.smtp.listener import Certificate
from pipeline.runtime.signing import Signer
from pipeline.settings import Settings
from pipeline.webhooks.base import Proofs
from pipeline.webhooks.proofs import proofs
from tests.conftest import SECRET
from tests.support.inbound import DOMAIN, EMAIL_ID, forged, message_id, unsubscribe, verp
from tests.support.smtp_receiver import certificate

OTHER_SECRET = "another-secret-of-at-least-32-characters"
OTHERS = tokens.verp(Signer(OTHER_SECRET, "verp"), EMAIL_ID, DOMAIN)


def base64_lines(text: str) -> bytes:
    return base64.encodebytes(text.encode()).replace(b"\n", b"\r\n")


def quoted_printable(text: str) -> bytes:
    return binascii.b2a_qp(text.encode()).replace(b"@", b"=40")


def test_return_paths_unsubscribe_addresses_and_roles_of_our_domain_are_ours() -> None:
    local = verp().partition("@")[0]
    for address in (verp(), unsubscribe(), f"<{verp()}>", verp().upper(), f"Postmaster@{DOMAIN}", f"fbl@{DOMAIN}"):
        assert is_ours(address, DOMAIN, proofs(SECRET))
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
        assert not is_ours(address, DOMAIN, proofs(SECRET)), address


def test_return_paths_of_the_previous_secret_are_ours_until_it_is_given_up() -> None:
    assert is_ours(OTHERS, DOMAIN, proofs(SECRET, OTHER_SECRET))
    assert is_ours(verp(), DOMAIN, proofs(SECRET, OTHER_SECRET))
    assert not is_ours(forged(OTHERS), DOMAIN, proofs(SECRET, OTHER_SECRET))
    assert proofs("", "").verp(tokens.verp(Signer("", "verp"), EMAIL_ID, DOMAIN)) is None


@pytest.mark.parametrize("tag", [verp(), unsubscribe(), message_id(), verp().upper()])
@pytest.mark.parametrize("written", [str.encode, base64_lines, quoted_printable], ids=lambda one: one.__name__)
def test_a_message_is_claimed_by_a_tag_wherever_it_stands(tag: str, written: Callable[[str], bytes]) -> None:
    body = f"Received: from a.example\r\nMessage-ID: {tag}\r\nSubject: x\r\n" + "y" * 100
    head = b"From: a@b.example\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    assert is_claimed(head + written(body), proofs(SECRET))
    assert not is_claimed(head + written(body.replace(tag, forged(tag))), proofs(SECRET))
    assert is_claimed(head + written(body.replace(tag, forged(tag))), None)
    assert not is_claimed(head + written(body.replace(tag, "<1@b.example>")), None)


def test_few_forged_tags_hide_no_real_one_and_many_are_not_all_verified() -> None:
    asked: list[str] = []

    def never(text: str) -> None:
        asked.append(text)

    many = b" ".join(forged(verp(), number).encode() for number in range(3 * MAX_CLAIMS))
    assert not is_claimed(many, Proofs(verp=never))
    assert len(asked) == MAX_CLAIMS
    late = b"x" * MAX_SCANNED_BYTES + message_id().encode()
    assert not is_claimed(late, proofs(SECRET))
    few = b" ".join(forged(verp(), number).encode() for number in range(MAX_CLAIMS - 1))
    assert is_claimed(few + b" " + message_id().encode(), proofs(SECRET))


def test_a_record_names_its_message_and_can_hold_no_second_header() -> None:
    once, again = record(b"x", 1, to="a@b\r\nx-truncated: 9", sender="<>"), record(b"x", 2, to="a@bx-truncated:9")
    assert dict(once.headers) == {"x-envelope-to": "a@bx-truncated:9", "x-envelope-from": "<>"}
    assert once.webhook_id == again.webhook_id != record(b"y", 1).webhook_id
    cut = record(b"x" * (KEPT + 1), 1, size=5_000_000)
    assert (len(cut.body), dict(cut.headers)) == (KEPT, {"x-truncated": "5000000"})
    assert record(b"x" * KEPT, 1).headers == ()


def test_one_sender_leaves_room_for_others_and_an_ipv6_network_is_one() -> None:
    doors = Doors(PER_HOST + 2, 0, lambda: 0.0)
    assert [doors.enter("192.0.2.1") for _ in range(PER_HOST + 1)] == [True] * PER_HOST + [False]
    assert doors.enter("192.0.2.2")
    assert doors.enter("2001:db8::1")
    assert not doors.enter("192.0.2.3")
    doors.leave("192.0.2.1")
    assert doors.inside == PER_HOST + 1
    many = Doors(1_000, 0, lambda: 0.0)
    assert [many.enter(f"2001:db8::{n:x}") for n in range(PER_HOST + 1)].count(True) == PER_HOST


def test_a_sender_that_writes_too_much_waits_while_others_do_not() -> None:
    now = 0.0
    doors = Doors(9, 2.0, lambda: now)
    assert [doors.message("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert doors.message("192.0.2.2")
    now = 0.5
    assert [doors.message("192.0.2.1") for _ in range(2)] == [True, False]


def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(tmp_path: Path) -> None:
    certificate(tmp_path)
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    files = Certificate(Settings(inbound_certificate=str(pem), inbound_certificate_key=str(key)))
    first = files.context()
    assert first is files.context() is not None
    certificate(tmp_path)
    os.utime(pem, (1, 1))
    second = files.context()
    assert second is not first
    pem.write_text("half of it")
    os.utime(pem, (2, 2))
    assert files.context() is second
    with pytest.raises(BadSettings, match="INBOUND_CERTIFICATE"):
        Certificate(Settings(inbound_certificate=str(pem)))
    assert Certificate(Settings()).context() is None
