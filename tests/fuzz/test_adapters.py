"""Every adapter, handed its golden payloads after something went wrong with them on the way.

Whatever comes, an adapter says what it makes of it or that it can make nothing of it; what it says can lie on the log
and names nobody's address.
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

# As JSON, because not all of it can be made by an encoder.
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
# Another region is another of SNS's own servers.
SNS = re.compile(r"https://sns\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/SimpleNotificationService-[A-Za-z0-9]+\.pem")
_MARK = "hostile:%d:"
_TWICE = "twice:"


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        yield (*path, name)
        yield from nodes(one, (*path, name))


def put(parent: Any, name: Any, mark: str) -> None:
    parent[name] = mark


def drop(parent: Any, name: Any, _mark: str) -> None:
    del parent[name]


def list_it(parent: Any, name: Any, _mark: str) -> None:
    parent[name] = [parent[name]]


def nest(parent: Any, name: Any, _mark: str) -> None:
    parent[name] = {"value": parent[name]}


def quote(parent: Any, name: Any, _mark: str) -> None:
    parent[name] = json.dumps(parent[name])


def rename(parent: Any, name: Any, _mark: str) -> None:
    if isinstance(parent, dict):
        parent[f"{name}_"] = parent.pop(name)


def double(parent: Any, name: Any, mark: str) -> None:
    """In an object the same name twice, and the second one counts."""
    if isinstance(parent, dict):
        parent[f"{_TWICE}{name}"] = mark
    else:
        parent.append(copy.deepcopy(parent[name]))


def say_more(parent: Any, name: Any, _mark: str) -> None:
    if isinstance(parent[name], str):
        parent[name] = f"{parent[name].swapcase()} {parent[name]}"


WAYS = (put, drop, list_it, nest, quote, rename, double, say_more)


def spoil(value: Any, path: tuple[Any, ...], way: Callable[[Any, Any, str], None], mark: str) -> None:
    """One thing goes wrong at one place."""
    for name in path[:-1]:
        value = value[name]
    way(value, path[-1], mark)


def written(value: Any) -> bytes:
    """As JSON, with the hostile values put where they are marked."""
    text = json.dumps(value, ensure_ascii=False)
    for number, hostile in enumerate(HOSTILE):
        text = text.replace(f'"{_MARK % number}"', hostile)
    return text.replace(f'"{_TWICE}', '"').encode("utf-8", "surrogatepass")


@st.composite
def spoilt(draw: st.DrawFn, kind: str) -> tuple[Case, bytes]:
    """A case, and a request's body that was a good one once."""
    case = draw(st.sampled_from(cases(kind)))
    if draw(st.booleans()):
        return case, flipped(draw, case.body)
    payload = json.loads(case.payload)
    for _ in range(draw(st.integers(1, 4))):
        if places := list(nodes(payload)):
            mark = _MARK % draw(st.integers(0, len(HOSTILE) - 1))
            spoil(payload, draw(st.sampled_from(places)), draw(st.sampled_from(WAYS)), mark)
    wrap: Callable[[bytes], bytes] = WRAPPED.get(kind, bytes)
    with contextlib.suppress(ValueError):  # what can't be wrapped goes as it is
        return case, wrap(written(payload))
    return case, written(payload)


def flipped(draw: st.DrawFn, body: bytes) -> bytes:
    """Some bytes are others, or gone, or there twice."""
    spoiled = bytearray(body)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(spoiled) - 1, 0)))
        piece = draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b"{", b"[", b"}", b",", b":", b"\\", b"\x00", b"\xff"])
        )
        spoiled[place : place + draw(st.integers(0, 4))] = piece
    return bytes(spoiled)


@pytest.mark.parametrize("kind", KINDS)
def test_what_went_wrong_on_the_way_is_told_or_unrecognised(kind: str) -> None:
    """Nothing else is raised; what is told can be written and read, and names nobody."""
    adapter, told = ADAPTERS[kind], context(kind)
    secrets = {case.name: set(addresses(json.loads(case.payload))) for case in cases(kind)}

    @FUZZED
    @given(spoilt(kind))
    def check(given: tuple[Case, bytes]) -> None:
        case, body = given
        with contextlib.suppress(Unrecognised):
            for event in adapter.split(body, told.headers):
                with contextlib.suppress(Unrecognised):
                    heard = adapter.normalize(event, told)
                    lies = encode(DELIVERY_EVENTS, heard)
                    assert decode(DELIVERY_EVENTS, lies) == heard
                    assert (heard.recorded_at, heard.provider) == (RECEIVED_AT, kind)
                    shown = urllib.parse.unquote(lies.decode()).lower()
                    assert not [address for address in secrets[case.name] if address in shown]

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_what_went_wrong_on_the_way_is_forged(kind: str) -> None:
    """No key signed it, whatever it is; nothing else is raised."""
    adapter = ADAPTERS[kind]
    headers = st.dictionaries(st.sampled_from(HEADERS), st.text(max_size=200), max_size=8)
    keys = st.lists(
        st.text(max_size=100) | st.sampled_from(["user:password", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    )

    @FUZZED
    @given(spoilt(kind), headers, keys, st.binary(max_size=200))
    def check(given: tuple[Case, bytes], headers: dict[str, str], keys: list[str], certificate: bytes) -> None:
        incoming = WebhookRequest(headers=headers, body=given[1], url="https://mail.example/x", certificate=certificate)
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
