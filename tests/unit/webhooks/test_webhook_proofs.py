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


def test_every_kind_is_tried() -> None:
    assert set(SIGNERS) | ELSEWHERE == set(ADAPTERS)


@KINDS
def test_an_authentic_request_is_believed(kind: str) -> None:
    verify(kind, incoming(of(kind)), of(kind).key)


@KINDS
def test_while_keys_rotate_both_are_good(kind: str) -> None:
    old, new = of(kind, "old"), of(kind, "new")
    for request in (old, new):
        verify(kind, incoming(request), new.key, old.key)
    with pytest.raises(InvalidSignatureError):
        verify(kind, incoming(old), new.key)


@KINDS
def test_without_a_key_nobody_is_believed(kind: str) -> None:
    with pytest.raises(InvalidSignatureError):
        verify(kind, incoming(of(kind)))


@KINDS
def test_a_key_that_is_none_of_the_providers_authenticates_nobody(kind: str) -> None:
    for key in ("", "not base64!", "bm8gREVS", "ключ", "a:b", "whsec_!", "-----BEGIN PUBLIC KEY-----\n!"):
        with pytest.raises(InvalidSignatureError):
            verify(kind, incoming(of(kind)), key)


@pytest.mark.parametrize("kind", sorted(set(SIGNERS) - PASSWORDS - {"mailgun"}))
def test_a_body_that_was_touched_is_forged(kind: str) -> None:
    request = of(kind)
    for body in (request.body + b" ", request.body[:-1], request.body.replace(b"e", b"E", 1), b"", b"\xff"):
        with pytest.raises(InvalidSignatureError):
            verify(kind, incoming(request, body), request.key)


@KINDS
def test_a_proof_that_is_missing_or_broken_is_forged(kind: str) -> None:
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
def test_a_proof_is_good_for_as_long_as_the_provider_repeats(kind: str) -> None:
    request, horizon = of(kind), ADAPTERS[kind].HORIZON_S
    verify(kind, incoming(request), request.key, at_s=NOW_S + horizon)
    verify(kind, incoming(request), request.key, at_s=NOW_S - 300)
    if kind in TIMED:
        for at_s in (NOW_S + horizon + 1, NOW_S - 301):
            with pytest.raises(InvalidSignatureError, match="stale"):
                verify(kind, incoming(request), request.key, at_s=at_s)
    else:
        verify(kind, incoming(request), request.key, at_s=NOW_S + 10 * horizon)


def test_mandrills_proof_is_good_for_one_url_only() -> None:
    request = of("mandrill")
    with pytest.raises(InvalidSignatureError, match="another URL"):
        verify("mandrill", incoming(request, url=URL + "/"), request.key)


def test_a_mailgun_token_is_told_with_what_it_was_used_for() -> None:
    request = of("mailgun")
    token, digest = mailgun.token(incoming(request))
    assert token == json.loads(request.body)["signature"]["token"]
    for_another = mailgun.token(incoming(request, request.body + b" "))
    assert for_another[0] == token
    assert for_another[1] != digest
