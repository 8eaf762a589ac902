"""Webhook keys as people enter them: adapters accept what the check accepts, and a refusal names its reason."""

import base64
import hmac
import re
import string
import textwrap
from collections.abc import Callable, Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InvalidSignatureError
from pipeline.operations.checks.webhook_keys import webhook_key_problem
from pipeline.operations.checks.webhook_signing import SIGNERS, SigningContext
from pipeline.webhooks.base import WebhookRequest
from pipeline.webhooks.providers.registry import ADAPTERS
from tests.support.webhooks import signed

BODY = b"[]"
NOW_S = 1_700_000_000
URL = "https://mail.example/webhooks/ours"
NAMES = {"sendgrid": "P-256", "postal": "RSA", "resend": "whsec_"}


def verify(kind: str, headers: Mapping[str, str], body: bytes, *keys: str) -> None:
    incoming = WebhookRequest(headers={name.lower(): value for name, value in headers.items()}, body=body, url=URL)
    ADAPTERS[kind].verify(incoming, keys, NOW_S * 1000, 60)


def pem(entered: str) -> str:
    key = load_der_public_key(base64.b64decode(entered))
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "base64": lambda key: key,
    "base64 in lines": lambda key: "\n  ".join(textwrap.wrap(key, 40)) + "\r\n",
    "PEM": pem,
    "PEM from Windows": lambda key: pem(key).replace("\n", "\r\n"),
    "PEM on one line": lambda key: pem(key).replace("\n", " "),
    "PEM run together": lambda key: pem(key).replace("\n", ""),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["sendgrid", "postal"])
def test_public_key_is_accepted_in_every_pasted_form(kind: str, form: str) -> None:
    request = signed(kind, BODY, now_s=NOW_S)
    entered = FORMS[form](request.key)
    assert webhook_key_problem(kind, entered) == ""
    verify(kind, request.headers, BODY, entered)


def public(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


P256, RSA = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGE = {
    "P-384": public(ec.generate_private_key(ec.SECP384R1())),
    "P-384 as PEM": pem(public(ec.generate_private_key(ec.SECP384R1()))),
    "Bitcoin's curve": public(ec.generate_private_key(ec.SECP256K1())),
    "Ed25519": public(ed25519.Ed25519PrivateKey.generate()),
    "half a P-256": public(P256)[:60],
    "half an RSA": public(RSA)[:60],
    "a private P-256": private(P256),
    "a private RSA": private(RSA),
    "PEM around nothing": "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
    "no key": "hello",
    "no ASCII": "ключ",
    "an empty secret": "whsec_",
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, name) for kind in ("sendgrid", "postal") for name in STRANGE),
        *(("resend", name) for name in ("PEM around nothing", "no key", "no ASCII", "an empty secret")),
    ],
)
def test_check_and_adapter_report_the_same_problem(kind: str, name: str) -> None:
    request = signed(kind, BODY, now_s=NOW_S)
    why = webhook_key_problem(kind, STRANGE[name])
    assert NAMES[kind] in why
    with pytest.raises(InvalidSignatureError, match=re.escape(why)):
        verify(kind, request.headers, BODY, STRANGE[name])


@pytest.mark.parametrize("kind", NAMES)
def test_broken_key_does_not_affect_the_other(kind: str) -> None:
    request = signed(kind, BODY, now_s=NOW_S)
    verify(kind, request.headers, BODY, STRANGE["no ASCII"], request.key)
    verify(kind, request.headers, BODY, request.key, STRANGE["no ASCII"])


def test_empty_secret_is_refused() -> None:
    forged = base64.b64encode(hmac.digest(b"", f"n.{NOW_S}.".encode() + BODY, "sha256")).decode()
    headers = {"svix-id": "n", "svix-timestamp": str(NOW_S), "svix-signature": f"v1,{forged}"}
    for key in ("whsec_", ""):
        with pytest.raises(InvalidSignatureError):
            verify("resend", headers, BODY, key)


spaces = st.sampled_from(["", "", "", " ", "\n", "\u00a0"])
entered = st.one_of(
    st.text(max_size=20),
    st.text(string.ascii_letters + string.digits + "-_.~+/=", max_size=20),
    st.tuples(st.text(max_size=8), st.text(max_size=8)).map(":".join),
    st.binary(max_size=12).map(lambda secret: "whsec_" + base64.b64encode(secret).decode()),
)


@given(st.sampled_from(sorted(SIGNERS)), st.tuples(spaces, entered, spaces).map("".join))
def test_adapter_verifies_with_every_accepted_key(kind: str, key: str) -> None:
    if webhook_key_problem(kind, key):
        return
    request = SIGNERS[kind](key, SigningContext(URL, NOW_S, "nonce", BODY))
    # As HTTP carries it: RFC 9110 §5.5.
    assert all(value.isascii() and value.isprintable() and value == value.strip() for value in request.headers.values())
    verify(kind, request.headers, request.body, key)
