"""The pure parts of the job queue and its handlers: retry delays, breakers, outcomes of replies, requests, caches."""

import random
from email.utils import formatdate
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.admin import Provider
from pipeline.dispatch.parse import parse_records
from pipeline.dispatch.transports import smtp_replies
from pipeline.dispatch.transports.base import SendOutcome
from pipeline.dispatch.transports.smtp import tls_required
from pipeline.dispatch.transports.smtp_replies import SmtpStage
from pipeline.emit import fasttrack
from pipeline.emit.fasttrack import ConversionReplyMeaning as Told
from pipeline.emit.ssrf import is_public
from pipeline.jobs import retry
from pipeline.jobs.job import EndpointHealth
from pipeline.jobs.retry import Breaker, after_failures, jittered, next_delay
from pipeline.runtime.ttl_cache import MAX_KEY_CHARS, TTLCache
from pipeline.settings import Settings
from projections.pending_conversions import PendingConversion
from topics.acks import Acked, Deferred, Failed, Rejected
from topics.codec import NewerRecord, encode
from topics.conversions import ConversionOutcome, ConversionWord
from topics.record import EmailId
from topics.registry import PROVIDER_ACKS, SEND_REQUESTS, Topic

ID = EmailId("0191d5a0-0000-7000-8000-000000000001")


# --------------------------------------------------------------------------- schedule
def test_default_schedule_is_the_documented_one() -> None:
    given_schedule = Settings().emit_schedule
    assert given_schedule[:8] == (5, 30, 120, 600, 1800, 7200, 18000, 36000)
    assert set(given_schedule[8:]) == {43200}
    assert 60 < sum(given_schedule) / 3600 <= 75


@given(st.floats(0, 1, exclude_max=True), st.floats(0.001, 1e6))
def test_jitter_is_at_most_a_fifth_in_both_directions(dice: float, seconds: float) -> None:
    assert 0.8 * seconds <= jittered(seconds, lambda: dice) <= 1.2 * seconds


def test_jitter_reaches_both_ends() -> None:
    assert jittered(10, lambda: 0.0) == pytest.approx(8)
    assert jittered(10, lambda: 0.9999999) == pytest.approx(12)


def test_no_delay_after_last_attempt() -> None:
    delays = [next_delay((1, 10), tries, lambda: 0.5) for tries in (1, 2, 3, 9)]
    assert delays == [pytest.approx(1), pytest.approx(10), None, None]


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1e6))
def test_longer_pause_that_is_asked_for_counts_and_a_shorter_one_does_not(dice: float, requested: float) -> None:
    delay = next_delay((100,), 1, lambda: dice, requested)
    assert delay is not None
    assert delay >= jittered(100, lambda: dice)
    assert requested <= delay <= max(120, 1.2 * requested)


# ---------------------------------------------------------------------------- breaker
def test_breaker_opens_after_consecutive_failures_for_longer_each_time() -> None:
    state = Breaker()
    for _ in range(retry.FAILURE_THRESHOLD - 1):
        state = after_failures(state, 1)
        assert (state.trips, state.open_for) == (0, 0)
    pauses = []
    for _ in range(12):
        state = after_failures(state, 1)
        pauses.append(state.open_for)
        state = Breaker(state.failures, state.trips, 0.0)
    assert pauses[:3] == [2, 4, 8]
    assert pauses == sorted(pauses)
    assert pauses[-1] == retry.MAX_PAUSE_S


def test_late_failures_do_not_lengthen_open_breaker() -> None:
    opened = after_failures(Breaker(), retry.FAILURE_THRESHOLD)
    assert after_failures(opened, 30) == opened


def test_broken_endpoint_opens_breaker_at_once() -> None:
    assert after_failures(Breaker(), 1, broken=True).open_for > 0


# ----------------------------------------------------------------------- SMTP answers
SMTP_ANSWERS = [
    (SmtpStage.DATA, 250, SendOutcome.TAKEN, EndpointHealth.HEALTHY),
    (SmtpStage.DATA, 0, SendOutcome.UNKNOWN, EndpointHealth.FAILING),
    (SmtpStage.DATA, -1, SendOutcome.UNKNOWN, EndpointHealth.HEALTHY),
    (SmtpStage.DATA, 451, SendOutcome.LATER, EndpointHealth.HEALTHY),
    (SmtpStage.DATA, 421, SendOutcome.LATER, EndpointHealth.FAILING),
    (SmtpStage.DATA, 554, SendOutcome.REJECTED, EndpointHealth.HEALTHY),
    (SmtpStage.RCPT, 550, SendOutcome.REJECTED, EndpointHealth.HEALTHY),
    (SmtpStage.RCPT, 450, SendOutcome.LATER, EndpointHealth.HEALTHY),
    (SmtpStage.RCPT, 0, SendOutcome.LATER, EndpointHealth.FAILING),
    (SmtpStage.MAIL, 550, SendOutcome.MISCONFIGURED, EndpointHealth.BROKEN),
    (SmtpStage.MAIL, 552, SendOutcome.REFUSED, EndpointHealth.HEALTHY),
    (SmtpStage.MAIL, 553, SendOutcome.REFUSED, EndpointHealth.HEALTHY),
    (SmtpStage.MAIL, 451, SendOutcome.LATER, EndpointHealth.HEALTHY),
    (SmtpStage.LOGIN, 535, SendOutcome.MISCONFIGURED, EndpointHealth.BROKEN),
    (SmtpStage.LOGIN, 454, SendOutcome.LATER, EndpointHealth.FAILING),
    (SmtpStage.SECURE, 0, SendOutcome.MISCONFIGURED, EndpointHealth.BROKEN),
    (SmtpStage.CONNECT, 0, SendOutcome.LATER, EndpointHealth.FAILING),
    (SmtpStage.CONNECT, 421, SendOutcome.LATER, EndpointHealth.FAILING),
    (SmtpStage.CONNECT, 554, SendOutcome.MISCONFIGURED, EndpointHealth.BROKEN),
]


@pytest.mark.parametrize(("stage", "code", "meaning", "lane"), SMTP_ANSWERS)
def test_smtp_reply_has_expected_outcome_and_health(
    stage: SmtpStage, code: int, meaning: SendOutcome, lane: EndpointHealth
) -> None:
    answer = smtp_replies.smtp_result(stage, code, "")
    assert (answer.outcome, answer.health) == (meaning, lane)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2.0.0 Ok: queued as 4Z2mN91qXzz9", "4Z2mN91qXzz9"),
        ("OK id=1tABcd-0000000Abc-1xYz", "1tABcd-0000000Abc-1xYz"),
        ("Ok 0102018f7c3c5f1e-6b2d-000000", "0102018f7c3c5f1e-6b2d-000000"),
        ("2.0.0 OK  1700000000 d9443c01a7336-1f2 - gsmtp", ""),
        ("OK", ""),
    ],
)
def test_provider_message_id_is_read_from_250_reply(text: str, seconds: str) -> None:
    assert smtp_replies.provider_message_id(text) == seconds


def test_redacted_text_has_no_address_and_no_unprintable_character() -> None:
    said = smtp_replies.redacted("5.1.1 <Anna@Example.com>: no\r\nsuch \udcff user\0", "anna@example.com")
    assert said == "5.1.1 <[recipient]>: no  such ? user "
    forwarded = smtp_replies.redacted("550 anna@example.com -> bert@example.org: no", "anna@example.com")
    assert forwarded == "550 [recipient] -> [address]: no"
    assert smtp_replies.enhanced_status(said) == "5.1.1"


def test_tls_is_required_to_send_password_over_network() -> None:
    assert tls_required(Provider("p", "mail.example.com", 25, username="u", password="p"))
    assert not tls_required(Provider("p", "127.0.0.1", 25, username="u", password="p"))
    assert not tls_required(Provider("p", "mail.example.com", 25))
    assert not tls_required(Provider("p", "mail.example.com", 25, tls="off", username="u", password="p"))


# ------------------------------------------------------------------------ conversions
CONVERSION_ANSWERS = [
    (Told.SETTLED, (200, 201, 202, 204)),
    (Told.REFUSED, (410, 422)),
    (Told.PAUSE, (401, 403, 404)),
    (Told.LATER, (301, 302, 307, 308, 400, 402, 405, 408, 409, 413, 418)),
    (Told.UNWELL, (0, 429, 500, 502, 503, 504)),
]


@pytest.mark.parametrize(("meaning", "statuses"), CONVERSION_ANSWERS)
def test_conversion_reply_has_expected_meaning(meaning: Told, statuses: tuple[int, ...]) -> None:
    assert {fasttrack.reply_meaning(status) for status in statuses} == {meaning}


NOW = 1_700_000_000_000
AFTER = [
    (503, "120", 120),
    (429, " 7 ", 7),
    (429, "0", 0),
    (429, formatdate(NOW / 1000 + 90, usegmt=True), 90),
    (429, formatdate(NOW / 1000 - 90, usegmt=True), 0),
    (429, "9" * 400, fasttrack.MAX_RETRY_AFTER_S),
    (503, formatdate(NOW / 1000 + 1e8, usegmt=True), fasttrack.MAX_RETRY_AFTER_S),
    (429, "-5", None),
    (429, "soon", None),
    (429, "", None),
    (500, "120", None),
    (429, "Fri, 99 Foo 2023 25:00:00 GMT", None),
    (429, "Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
]


@pytest.mark.parametrize(("status", "header", "seconds"), AFTER)
def test_retry_after_is_parsed(status: int, header: str, seconds: float | None) -> None:
    assert fasttrack.retry_after_seconds(status, header, NOW) == seconds


@given(st.text())
def test_any_retry_after_is_bounded_or_none(header: str) -> None:
    seconds = fasttrack.retry_after_seconds(429, header, NOW)
    assert seconds is None or 0 <= seconds <= fasttrack.MAX_RETRY_AFTER_S


def test_activity_is_sent_back_byte_for_byte() -> None:
    raw = b'{ "id":"x", "n": 18446744073709551617, "f":1.0e2, "u":"\\u00e9" }'
    debt = PendingConversion(email_id=ID, word=ConversionWord.SPAM, tenant="t", brand="b", activity=msgspec.Raw(raw))
    assert (
        fasttrack.body(debt) == b'{"activity":' + raw + b',"email_id":"' + ID.encode() + b'","delivery_status":"spam"}'
    )
    assert fasttrack.headers(debt, "k")["Idempotency-Key"] == f"{ID}:spam"
    assert fasttrack.result_id(debt, 1, ConversionOutcome.RETRYING) != fasttrack.result_id(
        debt, 2, ConversionOutcome.RETRYING
    )
    assert fasttrack.url("https://x.example/hook/") == "https://x.example/hook/email/conversion"


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"),
        *("2002:7f00:1::", "::127.0.0.1", "not an address"),
        # Clouds' metadata and platforms: Oracle, Azure, Alibaba, AWS, Google.
        *("192.0.0.192", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254"),
        *("fec0::1", "ff02::1", "::", "64:ff9b:1::808:808", "100::1", "5f00::1", "2001:db8::1", "3fff::1"),
        # An IPv4 address inside: Teredo, 6to4, translated, mapped, NAT64.
        *("2001::1", "2001:0:808:808::1", "2002:808:808::1", "::ffff:0:808:808", "::8.8.8.8"),
        *("::ffff:168.63.129.16", "64:ff9b::c000:c0", "64:ff9b::a83f:8110"),
        *("192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "198.18.0.1", "240.0.0.1", "203.0.113.1"),
    ],
)
def test_special_address_is_not_public(host: str) -> None:
    assert not is_public(host)


@pytest.mark.parametrize("host", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_internet_address_is_public(host: str) -> None:
    assert is_public(host)


# ---------------------------------------------------------------------------- reading
class _Record(msgspec.Struct):
    topic: str
    value: bytes
    partition: int = 0
    offset: int = 0
    key: bytes = b""


@pytest.mark.parametrize("topic", [SEND_REQUESTS, PROVIDER_ACKS], ids=lambda topic: topic.name)
def test_newer_version_stops_the_intake_with_its_place(topic: Topic) -> None:
    name = "send-request" if topic is SEND_REQUESTS else "dropped"
    newer = _Record("a", f'{{"type":"{name}/2","email_id":"{ID}"}}'.encode(), 3, 17)
    with pytest.raises(NewerRecord, match=f"^{topic.name}/3/17: {name}/2 is newer than {name}/1"):
        parse_records({"a": topic}, [newer])


def test_acked_email_is_done_in_any_order_of_acks() -> None:
    common: dict[str, Any] = {"email_id": ID, "occurred_at": 1, "recorded_at": 1}
    acks = [
        Deferred(event_id="1", attempt=1, next_attempt_at=5, **common),
        Failed(event_id="2", attempt=2, reason="gave up", **common),
        Acked(event_id="3", attempt=3, **common),
        Rejected(event_id="4", attempt=1, **common),
    ]
    for seed in range(20):
        random.Random(seed).shuffle(acks)
        rows = parse_records({"a": PROVIDER_ACKS}, [_Record("a", encode(PROVIDER_ACKS, ack)) for ack in acks])
        assert rows.ends == {ID: ("done", 3, "")}
        assert rows.deferrals == {ID: (1, 5)}


async def test_value_of_very_long_key_is_not_cached() -> None:
    lookups: list[str] = []

    async def ask(name: str) -> int:
        lookups.append(name)
        return len(name)

    assert len("long" * 1_000) > MAX_KEY_CHARS
    remembered: TTLCache[str, int] = TTLCache(2.0, 10, now=lambda: 0.0)
    for name in ("short", "long" * 1_000):
        assert [await remembered.get(name, ask), await remembered.get(name, ask)] == [len(name)] * 2
    assert [len(name) for name in lookups] == [5, 4_000, 4_000]


async def test_age_of_cached_value_counts_from_request() -> None:
    now = 0.0
    lookups: list[str] = []

    async def ask(name: str) -> int:
        nonlocal now
        lookups.append(name)
        now += 1.5
        return len(name)

    remembered: TTLCache[str, int] = TTLCache(2.0, 10, now=lambda: now)
    assert [await remembered.get("a", ask), await remembered.get("a", ask)] == [1, 1]
    assert lookups == ["a"]
    now = 2.1
    assert await remembered.get("a", ask) == 1
    assert lookups == ["a", "a"]
