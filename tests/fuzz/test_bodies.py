"""Hostile bodies for every API that takes a body: each gets an error in the API's own format."""

import json
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.support.dialects import SURFACES, Surface
from tests.support.served import Served

MEGABYTE = 1_000_000


def deep_object(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def replace_each_text(body: bytes, value: bytes) -> Iterator[bytes]:
    """Yield the body with each of its texts, one after the other, replaced by this value."""
    marks = [place for place, byte in enumerate(body) if byte == ord('"')]
    for start, end in pairwise(marks):
        if body[end + 1 : end + 2] in (b",", b"}", b"]") and body[start - 1 : start] in (b":", b"[", b" "):
            yield body[:start] + value + body[end + 1 :]


def with_repeated_keys(value: Any) -> bytes:
    """Return JSON with every key twice, the first time with an invalid value."""
    if isinstance(value, dict):
        return b"{" + b",".join(b'%s:{"x":[]},%s:%s' % (k, k, v) for k, v in _members(value)) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(with_repeated_keys, value)) + b"]"
    return json.dumps(value).encode()


def _members(value: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(json.dumps(key).encode(), with_repeated_keys(member)) for key, member in value.items()]


def hostile_bodies(surface: Surface) -> Iterator[tuple[str, bytes]]:
    good = json.dumps(surface.good).encode()
    for levels in (100, 1_000, 100_000):
        yield f"{levels} deep", deep_object(levels)
        yield f"{levels} deep in an array", b"[" * levels + b"]" * levels
        for index, body in enumerate(replace_each_text(good, deep_object(levels))):
            yield f"{levels} deep at text {index}", body
    for name, value in (
        ("bad UTF-8", b'"\xff\xfe"'),
        ("an overlong slash", b'"\xc0\xaf"'),
        ("half a pair", b'"\\ud800"'),
        ("the other half", b'"x\\udc00y"'),
        ("a raw half", b'"\xed\xa0\x80"'),
        ("NUL", b'"\\u0000"'),
        ("a line break", b'"a\\r\\nBcc: b@example.com"'),
        ("an encoded line break", b'"=?utf-8?q?a=0d=0aBcc:_b?="'),
        ("a huge integer", b"9" * 5_000),
        ("a huge float", b"1e999999"),
        ("NaN", b"NaN"),
        ("null", b"null"),
        ("a megabyte", b'"' + b"x" * MEGABYTE + b'"'),
    ):
        for index, body in enumerate(replace_each_text(good, value)):
            yield f"{name} at text {index}", body
    yield "keys twice", with_repeated_keys(surface.good)
    for name, body in (("nothing", b""), ("blank", b" "), ("text", b"hello"), ("half", good[: len(good) // 2])):
        yield name, body
    yield "a byte order mark", b"\xef\xbb\xbf" + good
    yield "UTF-16", good.decode().encode("utf-16")
    yield "two values", good + good


def assert_is_answer(surface: Surface, what: str, answer: httpx.Response) -> None:
    assert answer.status_code < 500, f"{what}: {answer.status_code} {answer.text[:200]}"
    assert answer.headers["content-type"].startswith("application/json"), what
    if answer.status_code >= 400:
        assert surface.is_error(answer.json()), f"{what}: {answer.text[:200]}"


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_hostile_bodies_are_refused_without_a_server_error(gateway: Served, surface: Surface) -> None:
    with client(gateway) as http:
        for what, body in hostile_bodies(surface):
            assert_is_answer(surface, what, http.post(surface.path, content=body))
        assert_is_answer(surface, "a good one", http.post(surface.path, json=surface.good))
        assert gateway.quiet(), gateway.log.read_text()[-3000:]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_too_large_body_is_refused_before_it_is_stored(gateway: Served, surface: Surface) -> None:
    with client(gateway) as http:
        declared = http.post(surface.path, content=b"[" + b" " * (100 * MEGABYTE - 1))
        streamed = http.post(surface.path, content=(b" " * MEGABYTE for _ in range(100)))
        zipped = http.post(surface.path, content=compression_bomb(1_000), headers={"Content-Encoding": "gzip"})
        twice = http.post(surface.path, content=compress(compression_bomb(100)), headers={"Content-Encoding": "gzip"})
        for what, answer in (("declared", declared), ("streamed", streamed), ("a bomb", zipped)):
            assert answer.status_code == 413, what
            assert_is_answer(surface, what, answer)
        assert twice.status_code == 400
        odd = http.post(surface.path, content=b"x", headers={"Content-Encoding": "br"})
        assert odd.status_code == 415
        assert_is_answer(surface, "another encoding", odd)
        wrong: tuple[dict[str, Any], ...] = (
            *({"X-Api-Key": key} for key in ("wrong", "")),
            {"X-Api-Key": "", "Authorization": b"Bearer \xff"},
        )
        for headers in wrong:
            answer = http.post(surface.path, content=b"{}", headers=headers)
            assert answer.status_code == 401, headers
            assert_is_answer(surface, "no key", answer)
        assert_is_answer(surface, "another method", http.delete(surface.path))
        assert gateway.quiet(), gateway.log.read_text()[-3000:]


def client(gateway: Served) -> httpx.Client:
    # Seconds; a request that takes longer hangs.
    return httpx.Client(base_url=gateway.url, timeout=20, headers={"X-Api-Key": gateway.key})


def compression_bomb(megabytes: int) -> bytes:
    """Return gzip of so many megabytes of spaces, a thousandth of that in size."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    blanks = b" " * MEGABYTE
    return b"".join(compressor.compress(blanks) for _ in range(megabytes)) + compressor.flush()


def compress(body: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()
