"""Unit tests of the gateway's small parts: rate limits, caches, unzipping, raw JSON, fingerprints, spool files."""

import gzip
import json
from pathlib import Path

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dialects.raw_json import nesting_depth, split_array
from pipeline.errors import Refused
from pipeline.gateway import problems
from pipeline.gateway.idempotency import fingerprint
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.rate_limit import TenantBuckets, TokenBucket
from pipeline.gateway.request_body import unzip
from pipeline.gateway.spool_files import SpoolSegments
from pipeline.runtime.ttl_cache import TTLCache


def test_bucket_grants_one_second_as_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(0.0)
    assert bucket.take(100, 10, 0.0) == 10
    assert bucket.take(100, 10, 0.0) == 0
    assert bucket.take(100, 10, 0.55) == 5
    assert bucket.take(3, 10, 1.05) == 3
    assert bucket.take(100, 10, 60.0) == 10


def test_rate_below_one_grants_single_tokens() -> None:
    bucket = TokenBucket(0.0)
    assert [bucket.take(1, 0.5, at) for at in (0.0, 1.0, 2.0, 3.0, 4.0)] == [1, 0, 1, 0, 1]


def test_zero_rate_is_no_limit_and_tenants_have_separate_buckets() -> None:
    buckets = TenantBuckets()
    assert buckets.take("a", 10_000, 0, 0.0) == 10_000
    assert buckets.take("a", 5, 5, 0.0) == 5
    assert buckets.take("a", 5, 5, 0.0) == 0
    assert buckets.take("b", 5, 5, 0.0) == 5


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 2))), st.floats(0.1, 100))
def test_no_sequence_of_requests_exceeds_burst_and_rate(requests: list[tuple[int, float]], rate: float) -> None:
    bucket, now, granted = TokenBucket(0.0), 0.0, 0
    for wanted, pause in requests:
        now += pause
        granted += bucket.take(wanted, rate, now)
        assert granted <= max(1.0, rate) + now * rate + 1e-6


async def test_cache_keeps_values_and_none_until_they_expire_and_stays_bounded() -> None:
    now = 0.0
    loaded: list[int] = []

    async def load(key: int) -> int | None:
        loaded.append(key)
        return None if key == 0 else key

    cache: TTLCache[int, int | None] = TTLCache(3.0, 10, lambda: now)
    assert [await cache.get(0, load), await cache.get(0, load), await cache.get(1, load)] == [None, None, 1]
    assert loaded == [0, 1]
    now = 3.1
    assert await cache.get(0, load) is None
    assert loaded == [0, 1, 0]
    for key in range(100):
        await cache.get(key, load)
    assert len(cache) == 10


async def test_cache_does_not_keep_errors() -> None:
    async def fail(_: int) -> int:
        raise ConnectionError

    async def answer(_: int) -> int:
        return 7

    cache: TTLCache[int, int] = TTLCache(3.0, 10, lambda: 0.0)
    with pytest.raises(ConnectionError):
        await cache.get(1, fail)
    assert await cache.get(1, answer) == 7


@given(st.binary(max_size=2_000))
def test_unzip_returns_the_original_up_to_the_limit(body: bytes) -> None:
    assert unzip(gzip.compress(body), len(body)) == body
    if body:
        with pytest.raises(HttpProblem) as problem:
            unzip(gzip.compress(body), len(body) - 1)
        assert problem.value.status == 413


def test_gzip_bomb_is_refused() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    with pytest.raises(HttpProblem) as problem:
        unzip(bomb, 100_000)
    assert problem.value.status == 413


@given(st.binary(max_size=200))
def test_any_bytes_are_unzipped_or_refused(raw: bytes) -> None:
    try:
        unzip(raw, 1_000)
    except HttpProblem as problem:
        if problem.status not in (400, 413):
            raise


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_nesting_depth_equals_that_of_the_parsed_value(value: object) -> None:
    def depth(node: object) -> int:
        if isinstance(node, dict):
            return 1 + max(map(depth, node.values()), default=0)
        return 1 + max(map(depth, node), default=0) if isinstance(node, list) else 0

    assert nesting_depth(json.dumps(value).encode(), -1) == depth(value)
    assert nesting_depth(json.dumps(value, ensure_ascii=False).encode(), -1) == depth(value)


@given(st.lists(st.integers() | st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_array_with_a_lone_surrogate_is_split_like_one_without(items: list[object]) -> None:
    body = json.dumps(items)
    broken = body[:-1] + ' , "\\ud800" ]\r\n'
    assert [bytes(raw) for raw in split_array(broken.encode())][:-1] == [
        bytes(raw) for raw in split_array(body.encode())
    ]


@pytest.mark.parametrize("body", [b'[,"\\ud800"]', b'["\\ud800",]', b'["\\ud800" 1]', b'{"\\ud800":1}', b'"\\ud800"'])
def test_array_with_a_lone_surrogate_and_another_error_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        split_array(body)


def test_fingerprint_separates_recipient_and_brand() -> None:
    assert fingerprint("a@b.c1", "2") != fingerprint("a@b.c", "12")
    assert fingerprint("a@b.c", "1") == fingerprint("a@b.c", "1")


def read_lines(segments: SpoolSegments, path: Path) -> list[bytes] | None:
    """Return a spool file's lines; None if another process has locked it."""
    with segments.locked_lines(path) as lines:
        return lines


def test_spool_file_is_readable_by_others_only_after_its_writer_rotated(tmp_path: Path) -> None:
    writer, other = SpoolSegments(tmp_path / "spool"), SpoolSegments(tmp_path / "spool")
    writer.write([b"one", b"two"], "1")
    writer.write([b"three"], "unused: the file has its name")
    (path,) = other.pending()
    assert path.name == "1.events"
    assert read_lines(other, path) is None
    writer.rotate()
    assert read_lines(other, path) == [b"one", b"two", b"three"]
    writer.write([b"four"], "2")
    assert [read_lines(other, each) for each in other.pending()] == [[b"one", b"two", b"three"], None]
    other.finish(path, readable=True)
    assert read_lines(writer, path) is None
    writer.rotate()


def test_incomplete_last_line_of_a_spool_file_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "1.events").write_bytes(b"whole\ntor")
    segments = SpoolSegments(tmp_path)
    assert read_lines(segments, tmp_path / "1.events") == [b"whole"]


def test_full_spool_raises_and_keeps_its_files(tmp_path: Path) -> None:
    segments = SpoolSegments(tmp_path, max_bytes=20_000_000)
    segments.write([b"kept"], "1")
    segments.write([b"x" * 9_000_000], "2")
    segments.write([b"y" * 9_000_000], "3")
    with pytest.raises(OSError, match="too long"):
        segments.write([b"z" * 9_000_000], "4")
    assert [path.name for path in segments.pending()] == ["1.events", "2.events", "3.events"]
    assert read_lines(segments, tmp_path / "1.events") == [b"kept"]
    segments.finish(tmp_path / "2.events", readable=True)
    segments.write([b"room again"], "4")
    segments.rotate()
    assert read_lines(segments, tmp_path / "4.events") == [b"room again"]


def test_request_above_the_capacity_is_granted_and_the_next_waits_longer() -> None:
    bucket = TokenBucket(0.0)
    assert bucket.take_all(60, 1.0, 0.0) == 0
    assert bucket.take_all(1, 1.0, 0.0) == 60
    assert bucket.take(5, 1.0, 30.0) == 0
    assert bucket.take_all(1, 1.0, 61.0) == 0
    assert bucket.take_all(100, 0.0, 61.0) == 0, "no limit"


async def test_transaction_ended_by_postgres_is_answered_503_in_the_dialects_format() -> None:
    app = FastAPI()
    problems.install_error_handlers(
        app, {"/v3": lambda _status, error, _where: json.dumps({"errors": [error]}).encode()}
    )

    @app.get("/v3/x")
    async def fail() -> None:
        raise psycopg.errors.IdleInTransactionSessionTimeout

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        answer = await http.get("/v3/x")
    assert (answer.status_code, list(answer.json())) == (503, ["errors"])
    assert answer.headers["Retry-After"]
