"""Every surface that takes a body, handed what only attackers and broken clients send: an answer in its own words."""

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


def deep(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def inside(body: bytes, value: bytes) -> Iterator[bytes]:
    """The body with each of its texts, one after the other, replaced by this value."""
    marks = [place for place, byte in enumerate(body) if byte == ord('"')]
    for start, end in pairwise(marks):
        if body[end + 1 : end + 2] in (b",", b"}", b"]") and body[start - 1 : start] in (b":", b"[", b" "):
            yield body[:start] + value + body[end + 1 :]


def doubled(value: Any) -> bytes:
    """Every key twice, the first time with a value that can't be right."""
    if isinstance(value, dict):
        return b"{" + b",".join(b'%s:{"x":[]},%s:%s' % (k, k, v) for k, v in _members(value)) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(doubled, value)) + b"]"
    return json.dumps(value).encode()


def _members(value: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(json.dumps(key).encode(), doubled(one)) for key, one in value.items()]


def hostile(surface: Surface) -> Iterator[tuple[str, bytes]]:
    good = json.dumps(surface.good).encode()
    for levels in (100, 1_000, 100_000):
        yield f"{levels} deep", deep(levels)
        yield f"{levels} deep in an array", b"[" * levels + b"]" * levels
        for nth, body in enumerate(inside(good, deep(levels))):
            yield f"{levels} deep at text {nth}", body
    for what, value in (
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
        for nth, body in enumerate(inside(good, value)):
            yield f"{what} at text {nth}", body
    yield "keys twice", doubled(surface.good)
    for name, body in (("nothing", b""), ("blank", b" "), ("text", b"hello"), ("half", good[: len(good) // 2])):
        yield name, body
    yield "a byte order mark", b"\xef\xbb\xbf" + good
    yield "UTF-16", good.decode().encode("utf-16")
    yield "two values", good + good


def judge(surface: Surface, what: str, answer: httpx.Response) -> None:
    assert answer.status_code < 500, f"{what}: {answer.status_code} {answer.text[:200]}"
    assert answer.headers["content-type"].startswith("application/json"), what
    if answer.status_code >= 400:
        assert surface.is_error(answer.json()), f"{what}: {answer.text[:200]}"


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_nothing_that_can_be_posted_breaks_a_surface(gateway: Served, surface: Surface) -> None:
    with client(gateway) as http:
        for what, body in hostile(surface):
            judge(surface, what, http.post(surface.path, content=body))
        judge(surface, "a good one", http.post(surface.path, json=surface.good))
        assert gateway.quiet(), gateway.log.read_text()[-3000:]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_what_is_too_large_is_refused_before_it_is_kept(gateway: Served, surface: Surface) -> None:
    with client(gateway) as http:
        declared = http.post(surface.path, content=b"[" + b" " * (100 * MEGABYTE - 1))
        streamed = http.post(surface.path, content=(b" " * MEGABYTE for _ in range(100)))
        zipped = http.post(surface.path, content=bomb(1_000), headers={"Content-Encoding": "gzip"})
        twice = http.post(surface.path, content=zipped_once(bomb(100)), headers={"Content-Encoding": "gzip"})
        for what, answer in (("declared", declared), ("streamed", streamed), ("a bomb", zipped)):
            assert answer.status_code == 413, what
            judge(surface, what, answer)
        assert twice.status_code == 400
        odd = http.post(surface.path, content=b"x", headers={"Content-Encoding": "br"})
        assert odd.status_code == 415
        judge(surface, "another encoding", odd)
        wrong: tuple[dict[str, Any], ...] = (
            *({"X-Api-Key": key} for key in ("wrong", "")),
            {"X-Api-Key": "", "Authorization": b"Bearer \xff"},
        )
        for headers in wrong:
            answer = http.post(surface.path, content=b"{}", headers=headers)
            assert answer.status_code == 401, headers
            judge(surface, "no key", answer)
        judge(surface, "another method", http.delete(surface.path))
        assert gateway.quiet(), gateway.log.read_text()[-3000:]


def client(gateway: Served) -> httpx.Client:
    # Whatever takes longer than this hangs.
    return httpx.Client(base_url=gateway.url, timeout=20, headers={"X-Api-Key": gateway.key})


def bomb(megabytes: int) -> bytes:
    """Gzip of so many megabytes of blanks, a thousandth of that in size."""
    press = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    blanks = b" " * MEGABYTE
    return b"".join(press.compress(blanks) for _ in range(megabytes)) + press.flush()


def zipped_once(body: bytes) -> bytes:
    press = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return press.compress(body) + press.flush()
