"""Who made a request? Every kind of provider's signatures: whole and touched, missing, stale, with keys that rotate."""

import json
from collections.abc import Mapping

import pytest

from pipeline.errors import InvalidSignatureError
from pipeline.webhooks.base import Adapter, WebhookRequest
from pipeline.webhooks.providers import mailgun
from pipeline.webhooks.providers.registry import ADAPTERS
from tests.support.golden import cases
from tests.support.webhooks import PASSWORDS, SIGNERS, TIMED, Signed, signed

# SNS has tests of its own (test_ses.py): its proof is a certificate. Mail is proven by what it holds.
ELSEWHERE = {"ses", "mail", "sandbox"}
NOW_S = 1_700_000_000
URL = "https://mail.example/webhooks/ours?of=acme"
KINDS = pytest.mark.parametrize("kind", sorted(SIGNERS))


def of(kind: str, name: str = "first") -> Signed:
    return signed(kind, cases(kind)[0].body, now_s=NOW_S, url=URL, name=name)


def incoming(
    request: Signed, body: bytes | None = None, url: str = URL, changed: Mapping[str, str] | None = None
) -> WebhookRequest:
    headers = {name.lower(): value for name, value in request.headers.items()} | dict(changed or {})
    return WebhookRequest(headers=headers, body=request.body if body is None else body, url=url)


def verify(kind: str, asks: WebhookRequest, *keys: str, at_s: float = NOW_S) -> None:
    adapter: Adapter = ADAPTERS[kind]
    adapter.verify(asks, keys, int(at_s * 1000), adapter.HORIZON_S)


def test_all_kinds_are_covered() -> None:
    assert set(SIGNERS) | ELSEWHERE == set(ADAPTERS)


@KINDS
def test_authentic_request_is_accepted(kind: str) -> None:
    verify(kind, incoming(of(kind)), of(kind).key)


@KINDS
def test_both_keys_are_accepted_during_a_rotation(kind: str) -> None:
    old, new = of(kind, "old"), of(kind, "new")
    for request in (old, new):
        verify(kind, incoming(request), new.key, old.key)
    with pytest.raises(InvalidSignatureError):
        verify(kind, incoming(old), new.key)


@KINDS
def test_request_is_refused_without_a_key(kind: str) -> None:
    with pytest.raises(InvalidSignatureError):
        verify(kind, incoming(of(kind)))


@KINDS
def test_foreign_key_is_refused(kind: str) -> None:
    for key in ("", "not base64!", "bm8gREVS", "ключ", "a:b", "whsec_!", "-----BEGIN PUBLIC KEY-----\n!"):
        with pytest.raises(InvalidSignatureError):
            verify(kind, incoming(of(kind)), key)


@pytest.mark.parametrize("kind", sorted(set(SIGNERS) - PASSWORDS - {"mailgun"}))
def test_changed_body_is_refused(kind: str) -> None:
    request = of(kind)
    for body in (request.body + b" ", request.body[:-1], request.body.replace(b"e", b"E", 1), b"", b"\xff"):
        with pytest.raises(InvalidSignatureError):
            verify(kind, incoming(request, body), request.key)


@KINDS
def test_missing_or_broken_signature_is_refused(kind: str) -> None:
    request = of(kind)
    proofs = [name for name in request.headers if name.lower() not in ("content-type", "x-postal-signature-kid")]
    if kind == "postal":
        proofs = ["X-Postal-Signature-256"]  # without it, the older one counts: see test_postal.py
    for name in proofs:
        for broken in ("", "!", "bm9uc2Vuc2U=", "é", "0", "Basic", "v1,", "v1,!", "9" * 400):
            if kind == "postal" and not broken:
                continue
            with pytest.raises(InvalidSignatureError):
                verify(kind, incoming(request, changed={name.lower(): broken}), request.key)


@KINDS
def test_signature_is_fresh_for_as_long_as_the_provider_repeats(kind: str) -> None:
    request, horizon = of(kind), ADAPTERS[kind].HORIZON_S
    verify(kind, incoming(request), request.key, at_s=NOW_S + horizon)
    verify(kind, incoming(request), request.key, at_s=NOW_S - 300)
    if kind in TIMED:
        for at_s in (NOW_S + horizon + 1, NOW_S - 301):
            with pytest.raises(InvalidSignatureError, match="stale"):
                verify(kind, incoming(request), request.key, at_s=at_s)
    else:
        verify(kind, incoming(request), request.key, at_s=NOW_S + 10 * horizon)


def test_mandrill_signature_is_valid_for_one_url_only() -> None:
    request = of("mandrill")
    with pytest.raises(InvalidSignatureError, match="another URL"):
        verify("mandrill", incoming(request, url=URL + "/"), request.key)


def test_mailgun_token_is_returned_with_a_digest_of_the_body() -> None:
    request = of("mailgun")
    token, digest = mailgun.token(incoming(request))
    assert token == json.loads(request.body)["signature"]["token"]
    for_another = mailgun.token(incoming(request, request.body + b" "))
    assert for_another[0] == token
    assert for_another[1] != digest
