"""Fuzz tests of every webhook adapter with damaged golden payloads.

An adapter must normalize a payload or raise Unrecognised. Normalized events must be encodable and contain no address.
"""

import contextlib
import copy
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import WebhookRequest
from pipeline.webhooks.providers.registry import ADAPTERS, ONE_TIME_TOKEN_ADAPTERS, SUBSCRIPTION_ADAPTERS
from tests.support.golden import FOLDER, RECEIVED_AT, WRAPPED, Case, addresses, cases, context
from topics.codec import decode, encode
from topics.registry import DELIVERY_EVENTS

CASES = int(os.environ.get("ADAPTER_CASES", "100"))
KINDS = sorted(kind for kind in ADAPTERS if (FOLDER / kind).is_dir() and kind != "mail")
FUZZED = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)

# Written as JSON, because an encoder can't make all of it.
HOSTILE = [
    '"\\ud800"',
    '"x\\udc00y"',
    '"\\u0000"',
    '"a\\u0000b@"',
    '"a\\r\\nBcc: b"',
    '"\\u202e\\ufffe"',
    "9" * 20,
    "-" + "9" * 400,
    "9" * 5_000,
    "1e999",
    "-1e-999",
    "1" + "0" * 18 + ".5",
    "NaN",
    "null",
    "true",
    "false",
    '""',
    '" "',
    '"@"',
    '"%40"',
    "[]",
    "{}",
    "[[]]",
    '{"":""}',
    "[" * 120 + "]" * 120,
    '{"a":' * 700 + "1" + "}" * 700,
    "[" * 5_000 + "]" * 5_000,
    '"' + "x" * 20_000 + '"',
    '"' + "a." * 5_000 + '@"',
    '"9999-12-31T23:59:59-23:59"',
    '"0001-01-01T00:00:00+14:00"',
    '"2026-13-45T99:99:99Z"',
    '"1970-01-01T00:00:00Z"',
    '"-1"',
    '"٣"',
    '"1e12"',
    '"550"',
    '"\\"},{\\"event\\":"',
]
# Any region: SNS has servers in each.
SNS = re.compile(r"https://sns\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/SimpleNotificationService-[A-Za-z0-9]+\.pem")
_MARK = "hostile:%d:"
_TWICE = "twice:"


def paths_within(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values within a value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield (*path, name)
        yield from paths_within(member, (*path, name))


def replace(parent: Any, name: Any, mark: str) -> None:
    parent[name] = mark


def drop(parent: Any, name: Any, _mark: str) -> None:
    del parent[name]


def wrap_in_list(parent: Any, name: Any, _mark: str) -> None:
    parent[name] = [parent[name]]


def nest(parent: Any, name: Any, _mark: str) -> None:
    parent[name] = {"value": parent[name]}


def quote(parent: Any, name: Any, _mark: str) -> None:
    parent[name] = json.dumps(parent[name])


def rename(parent: Any, name: Any, _mark: str) -> None:
    if isinstance(parent, dict):
        parent[f"{name}_"] = parent.pop(name)


def duplicate(parent: Any, name: Any, mark: str) -> None:
    """Repeat a name in an object, with the mark as its second value, or an item in a list."""
    if isinstance(parent, dict):
        parent[f"{_TWICE}{name}"] = mark
    else:
        parent.append(copy.deepcopy(parent[name]))


def lengthen(parent: Any, name: Any, _mark: str) -> None:
    if isinstance(parent[name], str):
        parent[name] = f"{parent[name].swapcase()} {parent[name]}"


DAMAGES = (replace, drop, wrap_in_list, nest, quote, rename, duplicate, lengthen)


def apply_damage(value: Any, path: tuple[Any, ...], damage: Callable[[Any, Any, str], None], mark: str) -> None:
    """Damage the value at a path."""
    for name in path[:-1]:
        value = value[name]
    damage(value, path[-1], mark)


def encode_hostile(value: Any) -> bytes:
    """Return the value as JSON with the hostile values in place of their marks."""
    text = json.dumps(value, ensure_ascii=False)
    for number, hostile in enumerate(HOSTILE):
        text = text.replace(f'"{_MARK % number}"', hostile)
    return text.replace(f'"{_TWICE}', '"').encode("utf-8", "surrogatepass")


@st.composite
def damaged_bodies(draw: st.DrawFn, kind: str) -> tuple[Case, bytes]:
    """Draw a case and the damaged body of its request."""
    case = draw(st.sampled_from(cases(kind)))
    if draw(st.booleans()):
        return case, damage_bytes(draw, case.body)
    payload = json.loads(case.payload)
    for _ in range(draw(st.integers(1, 4))):
        if paths := list(paths_within(payload)):
            mark = _MARK % draw(st.integers(0, len(HOSTILE) - 1))
            apply_damage(payload, draw(st.sampled_from(paths)), draw(st.sampled_from(DAMAGES)), mark)
    wrap: Callable[[bytes], bytes] = WRAPPED.get(kind, bytes)
    with contextlib.suppress(ValueError):  # a body that can't be wrapped is sent without
        return case, wrap(encode_hostile(payload))
    return case, encode_hostile(payload)


def damage_bytes(draw: st.DrawFn, body: bytes) -> bytes:
    """Return the body with some bytes replaced, removed or inserted."""
    damaged = bytearray(body)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(damaged) - 1, 0)))
        piece = draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b"{", b"[", b"}", b",", b":", b"\\", b"\x00", b"\xff"])
        )
        damaged[place : place + draw(st.integers(0, 4))] = piece
    return bytes(damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_webhook_is_normalized_or_unrecognised(kind: str) -> None:
    """Nothing but Unrecognised is raised; events can be encoded and contain no address."""
    adapter, event_context = ADAPTERS[kind], context(kind)
    secrets = {case.name: set(addresses(json.loads(case.payload))) for case in cases(kind)}

    @FUZZED
    @given(damaged_bodies(kind))
    def check(drawn: tuple[Case, bytes]) -> None:
        case, body = drawn
        with contextlib.suppress(Unrecognised):
            for event in adapter.split(body, event_context.headers):
                with contextlib.suppress(Unrecognised):
                    fact = adapter.normalize(event, event_context)
                    encoded = encode(DELIVERY_EVENTS, fact)
                    assert decode(DELIVERY_EVENTS, encoded) == fact
                    assert (fact.recorded_at, fact.provider) == (RECEIVED_AT, kind)
                    text = urllib.parse.unquote(encoded.decode()).lower()
                    assert not [address for address in secrets[case.name] if address in text]

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_webhook_fails_verification(kind: str) -> None:
    """InvalidSignatureError is raised for any request, because no key signed it."""
    adapter = ADAPTERS[kind]
    headers = st.dictionaries(st.sampled_from(HEADERS), st.text(max_size=200), max_size=8)
    keys = st.lists(
        st.text(max_size=100) | st.sampled_from(["user:password", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    )

    @FUZZED
    @given(damaged_bodies(kind), headers, keys, st.binary(max_size=200))
    def check(drawn: tuple[Case, bytes], headers: dict[str, str], keys: list[str], certificate: bytes) -> None:
        incoming = WebhookRequest(headers=headers, body=drawn[1], url="https://mail.example/x", certificate=certificate)
        with pytest.raises(InvalidSignatureError):
            adapter.verify(incoming, keys, RECEIVED_AT, 10**9)
        with contextlib.suppress(InvalidSignatureError):
            if kind in ONE_TIME_TOKEN_ADAPTERS:
                ONE_TIME_TOKEN_ADAPTERS[kind].token(incoming)
        with contextlib.suppress(InvalidSignatureError):
            if kind in SUBSCRIPTION_ADAPTERS:
                url = SUBSCRIPTION_ADAPTERS[kind].certificate_url(incoming, keys, RECEIVED_AT, 10**9)
                assert url is None or SNS.fullmatch(url)
        with contextlib.suppress(InvalidSignatureError):
            if kind in SUBSCRIPTION_ADAPTERS:
                assert SUBSCRIPTION_ADAPTERS[kind].confirmation_url(incoming) is None

    check()


HEADERS = [
    "authorization",
    "signature",
    "mailtrap-signature",
    "svix-id",
    "svix-timestamp",
    "svix-signature",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-mandrill-signature",
    "x-postal-signature",
    "x-postal-signature-256",
    "x-postal-signature-kid",
    "x-twilio-email-event-webhook-signature",
    "x-twilio-email-event-webhook-timestamp",
]
