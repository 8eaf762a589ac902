"""Signatures that an implementation we didn't write verifies, and that break where they shall."""

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


def answers(given_signer: DkimKey) -> Callable[..., bytes]:
    """DNS, as the printed record would make it."""
    name, _, strings = dkim.dns_record(given_signer).partition(" IN TXT ")
    value = "".join(re.findall(r'"([^"]*)"', strings))

    def ask(asked: bytes, timeout: int = 5) -> bytes:
        assert asked.decode() == name, timeout
        return value.encode()

    return ask


def verified(message: bytes, given_signer: DkimKey) -> bool:
    found: bool = dkimpy.verify(message, dnsfunc=answers(given_signer))
    return found


def test_another_implementation_verifies_what_is_signed(signer: DkimKey) -> None:
    signed = dkim.sign(mime.encode_message(letter(content=FULL, reply_to=("a@shop.example",))), signer, NOW)
    assert verified(signed, signer)
    assert max(map(len, signed.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 80


def test_what_matters_is_covered(signer: DkimKey) -> None:
    signed = dkim.sign(mime.encode_message(letter(content=FULL)), signer, NOW)
    found = re.search(rb"h=([^;]*);", signed)
    assert found
    names = re.sub(rb"\s", b"", found[1]).decode().split(":")
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
def test_what_is_changed_on_the_way_is_found(signer: DkimKey, change: str) -> None:
    signed = dkim.sign(mime.encode_message(letter()), signer, NOW)
    changed = CHANGES[change](signed)
    assert changed != signed
    assert verified(signed, signer)
    assert not verified(changed, signer)


def test_what_servers_do_on_the_way_is_borne(signer: DkimKey) -> None:
    signed = dkim.sign(mime.encode_message(letter()), signer, NOW)
    assert verified(b"Received: from a by b;\r\n Thu, 1 Jan 2026 00:00:00 +0000\r\n" + signed, signer)
    assert verified(signed.replace(b"Subject: ", b"SUBJECT:   "), signer)
    assert verified(signed + b"\r\n\r\n", signer)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from(" \t\r\n."), max_size=200)


@settings(max_examples=150, deadline=None)
@given(texts, texts, st.sampled_from(list(KEYS)))
def test_whatever_is_written_verifies(subject: str, text: str, kind: str) -> None:
    signer = DkimKey("shop.example", "mf1", KEYS[kind])
    signed = dkim.sign(mime.encode_message(letter(content=MessageContent(text=text), subject=subject)), signer, NOW)
    assert verified(signed, signer)


def test_a_key_of_ones_own_is_read_in_either_form() -> None:
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
    ("given_dkim", "why"),
    [
        (DkimKey("shop example", "s", KEYS["ed25519"]), "not a domain"),
        (DkimKey("shop.example", "s;\r\n d=evil", KEYS["ed25519"]), "not a selector"),
        (DkimKey("shop.example", "s", "nonsense"), "no private key"),
        (DkimKey("shop.example", "s", _pem(ec.generate_private_key(ec.SECP256R1()))), "neither RSA nor Ed25519"),
        (DkimKey("shop.example", "s", _pem(rsa.generate_private_key(65537, 1024))), "1024 bits"),
    ],
)
def test_what_no_verifier_would_accept_is_refused(given_dkim: DkimKey, why: str) -> None:
    with pytest.raises(Refused, match=why):
        dkim.check_key(given_dkim)


def test_the_record_is_one_that_dns_takes(signer: DkimKey) -> None:
    name, _, strings = dkim.dns_record(signer).partition(" IN TXT ")
    assert name == "mf1._domainkey.shop.example."
    assert all(len(string) <= 255 for string in re.findall(r'"([^"]*)"', strings))
    base64.b64decode("".join(re.findall(r'"([^"]*)"', strings)).partition("p=")[2], validate=True)


def test_a_key_shows_nowhere(signer: DkimKey) -> None:
    assert "PRIVATE" not in repr(signer)
