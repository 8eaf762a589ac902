"""Tests of DKIM signatures, which another implementation verifies."""

import base64
import re
from collections.abc import Callable

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.content import dkim, mime
from pipeline.content.dkim import DkimKey
from pipeline.errors import Refused
from tests.support.letters import FULL, NOW, letter
from topics.contents import MessageContent

KEYS = {kind: dkim.new_key(ed25519=kind == "ed25519") for kind in ("rsa", "ed25519")}


@pytest.fixture(params=list(KEYS))
def signer(request: pytest.FixtureRequest) -> DkimKey:
    return DkimKey("shop.example", "mf1", KEYS[str(request.param)])


def dns_lookup(key: DkimKey) -> Callable[..., bytes]:
    """Return a DNS look-up that answers with the printed record."""
    name, _, strings = dkim.dns_record(key).partition(" IN TXT ")
    value = "".join(re.findall(r'"([^"]*)"', strings))

    def look_up(queried_name: bytes, timeout: int = 5) -> bytes:
        assert queried_name.decode() == name, timeout
        return value.encode()

    return look_up


def verified(message: bytes, key: DkimKey) -> bool:
    is_valid: bool = dkimpy.verify(message, dnsfunc=dns_lookup(key))
    return is_valid


def test_signature_is_verified_by_another_implementation(signer: DkimKey) -> None:
    signed = dkim.sign(mime.encode_message(letter(content=FULL, reply_to=("a@shop.example",))), signer, NOW)
    assert verified(signed, signer)
    assert max(map(len, signed.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 80


def test_important_headers_are_signed(signer: DkimKey) -> None:
    signed = dkim.sign(mime.encode_message(letter(content=FULL)), signer, NOW)
    match = re.search(rb"h=([^;]*);", signed)
    assert match
    names = re.sub(rb"\s", b"", match[1]).decode().split(":")
    assert names.count("from") == 2
    wanted = "to subject date message-id list-unsubscribe list-unsubscribe-post mime-version content-type"
    assert set(wanted.split()) <= set(names)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a second From": lambda m: b"From: evil@example.com\r\n" + m,
    "a second Subject": lambda m: b"Subject: evil\r\n" + m,
    "a Reply-To that wasn't there": lambda m: b"Reply-To: evil@example.com\r\n" + m,
    "another link to unsubscribe": lambda m: m.replace(b"https://mail.example/u/abc", b"https://evil.example/u/abc"),
    "another body": lambda m: m.replace(b"Hello", b"Hallo"),
    "another date": lambda m: m.replace(b"Date: Thu", b"Date: Fri"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_changed_message_fails_verification(signer: DkimKey, change: str) -> None:
    signed = dkim.sign(mime.encode_message(letter()), signer, NOW)
    changed = CHANGES[change](signed)
    assert changed != signed
    assert verified(signed, signer)
    assert not verified(changed, signer)


def test_changes_by_mail_servers_keep_the_signature_valid(signer: DkimKey) -> None:
    signed = dkim.sign(mime.encode_message(letter()), signer, NOW)
    assert verified(b"Received: from a by b;\r\n Thu, 1 Jan 2026 00:00:00 +0000\r\n" + signed, signer)
    assert verified(signed.replace(b"Subject: ", b"SUBJECT:   "), signer)
    assert verified(signed + b"\r\n\r\n", signer)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from(" \t\r\n."), max_size=200)


@settings(max_examples=150, deadline=None)
@given(texts, texts, st.sampled_from(list(KEYS)))
def test_any_message_verifies(subject: str, text: str, kind: str) -> None:
    signer = DkimKey("shop.example", "mf1", KEYS[kind])
    signed = dkim.sign(mime.encode_message(letter(content=MessageContent(text=text), subject=subject)), signer, NOW)
    # SMTP ends the last line. Without its end, dkimpy keeps white space there, against RFC 6376 §3.4.4.
    assert verified(signed if signed.endswith(b"\r\n") else signed + b"\r\n", signer)


def test_imported_key_is_read_in_both_formats() -> None:
    key = rsa.generate_private_key(65537, 2048)
    for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
        own = DkimKey("shop.example", "mf1", pem)
        dkim.check_key(own)
        assert verified(dkim.sign(mime.encode_message(letter()), own, NOW), own)


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.mark.parametrize(
    ("dkim_key", "why"),
    [
        (DkimKey("shop example", "s", KEYS["ed25519"]), "not a domain"),
        (DkimKey("shop.example", "s;\r\n d=evil", KEYS["ed25519"]), "not a selector"),
        (DkimKey("shop.example", "s", "nonsense"), "no private key"),
        (DkimKey("shop.example", "s", _pem(ec.generate_private_key(ec.SECP256R1()))), "neither RSA nor Ed25519"),
        (DkimKey("shop.example", "s", _pem(rsa.generate_private_key(65537, 1024))), "1024 bits"),
    ],
)
def test_key_that_no_verifier_accepts_is_refused(dkim_key: DkimKey, why: str) -> None:
    with pytest.raises(Refused, match=why):
        dkim.check_key(dkim_key)


def test_dns_record_has_strings_of_at_most_255_bytes(signer: DkimKey) -> None:
    name, _, strings = dkim.dns_record(signer).partition(" IN TXT ")
    assert name == "mf1._domainkey.shop.example."
    assert all(len(string) <= 255 for string in re.findall(r'"([^"]*)"', strings))
    base64.b64decode("".join(re.findall(r'"([^"]*)"', strings)).partition("p=")[2], validate=True)


def test_private_key_is_not_in_repr(signer: DkimKey) -> None:
    assert "PRIVATE" not in repr(signer)
