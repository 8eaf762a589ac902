"""Postal's webhooks: signatures that OpenSSL made, the older one, and keys that are none."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import UNCORRELATED, WebhookRequest
from pipeline.webhooks.providers import postal
from tests.support.golden import EMAIL_ID, Case, context, events_of_case

# Made by OpenSSL's command (`openssl dgst -sign`), as Postal makes its own by OpenSSL's library.
PEM = """-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtd4bG0xYOs2Mx5FmJdY2
mE/8t5A+beYyZAlq+ywTLNU3qEuLjK/gcw9QmnyQCXNVlHfIlb+x7p/9ITt9VTKN
2qPEJlqVv+ytq/qLL7Df5DLZ4QLR+dPcOXXlr3JGt/JseM2ajizGP5wo7uFiXBI+
QtXQZSYVxTMj8O41BoL444b1gAIt/+7QrF+Nl+snXTTT2xBtKUwoTcErP8Sj644M
fuDdi21OdD63xycUB+y3nlzmU4ACW0u6TwjT5scBgk1w2kSrBzJDxw8NYIkmbrgg
LK1HW6TSzpZBiUeRdus5MKPRe/UK8/zDBR/H6LTQ21MOvzP17+91x7/OTSqn/u/S
cQIDAQAB
-----END PUBLIC KEY-----
"""
KEY = "".join(line for line in PEM.splitlines() if "-----" not in line)
BODY = (
    b'{"event":"MessageSent","timestamp":1477945177.12994,"payload":{},"uuid":"0fcc831f-92b9-4e2b-97f2-d873abc77fab"}'
)
BY_SHA256 = (
    "LjktiujnJ2NwAkMHTB/AapMaSiROnRwDqW6LnKV2FhuEx+MJ63aTAUqH9uO5W4LlakPzJnziPfovMLN+m5CV2p5zv8tNcqZuxoKdjE+Ve5pgAeGq"
    "hNPzqIF/R+W/Q0bSLwllBjx8SQ7IfBGLeehWxAVEq8aY1ilg173AxRGKH9qO/Uv0Hl8C4c5hW3823Zo5S74zY2wZw2UO5m+tcxkzojz6Baj2ArE5"
    "Anb9A0SpruM34XyBgUae8ZC5q/+WzpJ7hNkXWBNFmGF7uPFgDZieedH7RcNFw4/bj2UXDjOVfgUBj7MEPtV9TpeJ9y8q5t/tD4qOyE7M9uXEUwWJ"
    "b1ktnQ=="
)
BY_SHA1 = (
    "n132q/emVBPVZQ/PTNXk714yWTSvePFONrBVPspg/lLDU50q/XX1kcTDOdt558V5VVbWIWDO2nvFXeZ+qaseskgzNsLCNRpDBoJV4bHxi1SuoTzJ"
    "4HogguEjqq/Bv+u9OrsG3l/MxlgmFBd8mRFF12Mjv4ahwJprE69DJ/skblEkV7yyF4II0opa2Xr6AS2I6qqNQSfWWp8WJEYTT4djSS2GLlrAnyUs"
    "TuP9PEBrbFqGqMSMMNXJVhuKVAma378PHao1dhBuXzDmDVRTE1OWh2xdavsirsDRVOde13WBZPB/ToI5uAw0P+QWgQUp2PzzavEctbfESUZVllPE"
    "NcZbvA=="
)
NEW, OLD = "x-postal-signature-256", "x-postal-signature"


def verify(headers: dict[str, str], body: bytes = BODY, *keys: str) -> None:
    postal.verify(WebhookRequest(headers=headers, body=body), keys or [KEY], 0, 0)


def test_old_and_new_signatures_are_verified() -> None:
    verify({NEW: BY_SHA256, OLD: BY_SHA1})
    verify({NEW: BY_SHA256})
    verify({OLD: BY_SHA1})


def test_key_is_accepted_as_pem_and_in_lines() -> None:
    verify({NEW: BY_SHA256}, BODY, PEM)
    verify({NEW: BY_SHA256}, BODY, PEM.replace("\n", "\r\n"))
    verify({NEW: BY_SHA256}, BODY, f"  {KEY[:60]} {KEY[60:]}\n")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({NEW: BY_SHA256}, BODY + b" "),
        ({OLD: BY_SHA1}, BODY + b" "),
        ({NEW: BY_SHA1}, BODY),
        ({OLD: BY_SHA256}, BODY),
        ({NEW: "bm9uZQ==", OLD: BY_SHA1}, BODY),
        ({}, BODY),
    ],
    ids=["touched", "touched, older", "SHA-1 for SHA-256", "the other way round", "a bad one beside the older", "none"],
)
def test_changed_request_is_refused(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(InvalidSignatureError):
        verify(headers, body)


def test_key_of_another_kind_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    text = base64.b64encode(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    with pytest.raises(InvalidSignatureError, match="RSA"):
        verify({NEW: BY_SHA256}, BODY, text)


def test_event_is_correlated_by_our_message_id() -> None:
    (ours,), (theirs,) = (events_of_case(postal, Case("postal", name)) for name in ("sent", "of_nobody_we_know"))
    assert (ours.email_id, theirs.email_id) == (EMAIL_ID, UNCORRELATED)


def test_event_of_incoming_mail_is_unknown() -> None:
    """Even where it answers one of ours and repeats its Message-ID."""
    event = Case("postal", "sent").payload.replace(b'"outgoing"', b'"incoming"')
    told = postal.normalize(event, context("postal"))
    assert (told.kind, told.email_id, told.provider_message_id) == ("unknown", UNCORRELATED, "")


@pytest.mark.parametrize("event", [b"{}", b'{"event":"MessageSent"}', b'{"event":"MessageSent","timestamp":"soon"}'])
def test_malformed_event_is_unrecognised(event: bytes) -> None:
    with pytest.raises(Unrecognised):
        postal.normalize(event, context("postal"))
