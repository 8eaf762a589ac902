"""Unit tests of inbound mail: accepted addresses, tags of ours, records, connection limits, the TLS certificate."""

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
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from pipeline.webhooks.base import TokenReaders
from pipeline.webhooks.token_readers import token_readers
from tests.conftest import RING, SECRET
from tests.support.inbound import DOMAIN, EMAIL_ID, forged, message_id, unsubscribe, verp
from tests.support.smtp_receiver import certificate

OTHER_SECRET = "another-secret-of-at-least-32-characters"
OTHER_RETURN_PATH = tokens.verp_address(Signer(SecretRing.of(OTHER_SECRET), "verp"), EMAIL_ID, DOMAIN)


def base64_lines(text: str) -> bytes:
    return base64.encodebytes(text.encode()).replace(b"\n", b"\r\n")


def quoted_printable(text: str) -> bytes:
    return binascii.b2a_qp(text.encode()).replace(b"@", b"=40")


def test_only_signed_addresses_and_roles_of_our_domain_are_accepted() -> None:
    local = verp().partition("@")[0]
    for address in (verp(), unsubscribe(), f"<{verp()}>", verp().upper(), f"Postmaster@{DOMAIN}", f"fbl@{DOMAIN}"):
        assert is_accepted_address(address, DOMAIN, token_readers(RING))
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
        OTHER_RETURN_PATH,
    ):
        assert not is_accepted_address(address, DOMAIN, token_readers(RING)), address


def test_return_paths_of_the_previous_secret_are_accepted_while_it_is_set() -> None:
    assert is_accepted_address(OTHER_RETURN_PATH, DOMAIN, token_readers(SecretRing.of(SECRET, OTHER_SECRET)))
    assert is_accepted_address(verp(), DOMAIN, token_readers(SecretRing.of(SECRET, OTHER_SECRET)))
    assert not is_accepted_address(
        forged(OTHER_RETURN_PATH), DOMAIN, token_readers(SecretRing.of(SECRET, OTHER_SECRET))
    )


@pytest.mark.parametrize("tag", [verp(), unsubscribe(), message_id(), verp().upper()])
@pytest.mark.parametrize("encode", [str.encode, base64_lines, quoted_printable], ids=lambda encode: encode.__name__)
def test_tag_is_found_in_any_place_and_transfer_encoding(tag: str, encode: Callable[[str], bytes]) -> None:
    body = f"Received: from a.example\r\nMessage-ID: {tag}\r\nSubject: x\r\n" + "y" * 100
    head = b"From: a@b.example\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    assert has_own_tag(head + encode(body), token_readers(RING))
    assert not has_own_tag(head + encode(body.replace(tag, forged(tag))), token_readers(RING))
    assert has_own_tag(head + encode(body.replace(tag, forged(tag))), None)
    assert not has_own_tag(head + encode(body.replace(tag, "<1@b.example>")), None)


def test_real_tag_is_found_after_forged_ones_up_to_a_limit_of_verifications() -> None:
    verified: list[str] = []

    def reject(text: str) -> None:
        verified.append(text)

    many = b" ".join(forged(verp(), number).encode() for number in range(3 * MAX_TAGS_VERIFIED))
    assert not has_own_tag(many, TokenReaders(verp=reject))
    assert len(verified) == MAX_TAGS_VERIFIED
    late = b"x" * MAX_SCANNED_BYTES + message_id().encode()
    assert not has_own_tag(late, token_readers(RING))
    few = b" ".join(forged(verp(), number).encode() for number in range(MAX_TAGS_VERIFIED - 1))
    assert has_own_tag(few + b" " + message_id().encode(), token_readers(RING))


def test_record_id_depends_on_the_message_and_addresses_cannot_add_headers() -> None:
    first, repeated = (
        mail_record(b"x", 1, to="a@b\r\nx-truncated: 9", sender="<>"),
        mail_record(b"x", 2, to="a@bx-truncated:9"),
    )
    assert dict(first.headers) == {"x-envelope-to": "a@bx-truncated:9", "x-envelope-from": "<>"}
    assert first.webhook_id == repeated.webhook_id != mail_record(b"y", 1).webhook_id
    cut = mail_record(b"x" * (MESSAGE_KEPT_BYTES + 1), 1, size=5_000_000)
    assert (len(cut.body), dict(cut.headers)) == (MESSAGE_KEPT_BYTES, {"x-truncated": "5000000"})
    assert mail_record(b"x" * MESSAGE_KEPT_BYTES, 1).headers == ()


def test_connections_are_limited_per_network_and_an_ipv6_64_is_one_network() -> None:
    limits = SmtpConnectionLimits(MAX_CONNECTIONS_PER_NETWORK + 2, 0, lambda: 0.0)
    assert [limits.admit("192.0.2.1") for _ in range(MAX_CONNECTIONS_PER_NETWORK + 1)] == [
        True
    ] * MAX_CONNECTIONS_PER_NETWORK + [False]
    assert limits.admit("192.0.2.2")
    assert limits.admit("2001:db8::1")
    assert not limits.admit("192.0.2.3")
    limits.leave("192.0.2.1")
    assert limits.open_connections == MAX_CONNECTIONS_PER_NETWORK + 1
    many = SmtpConnectionLimits(1_000, 0, lambda: 0.0)
    assert [many.admit(f"2001:db8::{n:x}") for n in range(MAX_CONNECTIONS_PER_NETWORK + 1)].count(
        True
    ) == MAX_CONNECTIONS_PER_NETWORK


def test_message_rate_is_limited_per_network() -> None:
    now = 0.0
    limits = SmtpConnectionLimits(9, 2.0, lambda: now)
    assert [limits.admit_message("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert limits.admit_message("192.0.2.2")
    now = 0.5
    assert [limits.admit_message("192.0.2.1") for _ in range(2)] == [True, False]


def test_renewed_certificate_is_loaded_and_a_broken_one_is_ignored(tmp_path: Path) -> None:
    certificate(tmp_path)
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificates = TlsCertificate(Settings(inbound_certificate=str(pem), inbound_certificate_key=str(key)))
    first = certificates.context()
    assert first is certificates.context() is not None
    certificate(tmp_path)
    os.utime(pem, (1, 1))
    second = certificates.context()
    assert second is not first
    pem.write_text("half of it")
    os.utime(pem, (2, 2))
    assert certificates.context() is second
    with pytest.raises(InvalidSettings, match="INBOUND_CERTIFICATE"):
        TlsCertificate(Settings(inbound_certificate=str(pem)))
    assert TlsCertificate(Settings()).context() is None
