"""The sentence about an email says where it stands, and its timeline what happened, in order, with causes."""

from typing import Any

import msgspec
import pytest

from pipeline.gateway.console.standing import email_standing
from pipeline.gateway.console.timeline import reply_text, timeline_entries
from pipeline.worker.fold import evolve
from projections.history_queries import EmailHistory
from projections.timeline import TimelineFact
from tests.support.changes import T0, acked, conversion_result, event, identified, request
from topics.acks import Deferred, Dropped, Failed, Rejected
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import EventKind

COMMON: dict[str, Any] = {"email_id": identified(1), "event_id": "end", "occurred_at": T0 + 9, "recorded_at": T0 + 9}


def history(*facts: Fact) -> EmailHistory:
    state = None
    for fact in facts:
        state = evolve(state, fact)
    assert state is not None
    timeline = [TimelineFact(fact, [f"facts/0/{number}"]) for number, fact in enumerate(facts)]
    return EmailHistory(state=state, version=1, since=T0, partition=0, timeline=timeline, jobs=[])


@pytest.mark.parametrize(
    ("facts", "parts", "words"),
    [
        ([], ["Accepted at 2023-11-14 22:13:20 UTC", "not handed to a provider yet"], ""),
        ([acked(1, T0)], ["Handed to relay", "nothing final heard yet"], ""),
        (
            [Deferred(**COMMON, provider="relay", code=451, text="greylisted", next_attempt_at=T0 + 60_000)],
            ["attempt 1 failed", "the next is due at 2023-11-14 22:14:20 UTC"],
            "451 greylisted",
        ),
        ([acked(1, T0), event(1, EventKind.DELIVERED, T0)], ["Delivered at", "not opened by a person yet"], ""),
        ([event(1, EventKind.DELIVERED, T0), event(1, EventKind.OPENED, T0)], ["Delivered at", "and opened at"], ""),
        ([event(1, EventKind.OPENED, T0)], ["No delivery was reported; opened at"], ""),
        ([event(1, EventKind.CLICKED, T0)], ["a link in it was followed"], ""),
        (
            [event(1, EventKind.DELIVERED, T0), event(1, EventKind.BOUNCED, T0)],
            ["Bounced at", "after it had been delivered", "for good"],
            "no such user",
        ),
        ([Rejected(**COMMON, code=550, enhanced="5.1.1", text="unknown")], ["for good"], "550 5.1.1 unknown"),
        ([event(1, EventKind.COMPLAINED, T0)], ["reported it as spam"], ""),
        ([Dropped(**COMMON, reason="suppressed: hard bounce")], ["because an earlier email to it bounced"], ""),
        ([Dropped(**COMMON, reason="suppressed by the provider", text="on list")], ["a list of its own"], "on list"),
        ([Dropped(**COMMON, reason="something new")], ["gets no mail: something new."], ""),
        ([Failed(**COMMON, reason="gave up", text="timeout")], ["was given up"], "timeout"),
    ],
)
def test_sentence_says_where_the_email_stands(facts: list[Fact], parts: list[str], words: str) -> None:
    standing = email_standing(history(request(1), *facts))
    assert [part for part in parts if part not in standing.sentence] == [], standing.sentence
    assert standing.words == words


def test_sentence_about_an_email_without_request_says_so() -> None:
    assert "not yet its send request" in email_standing(history(event(1, EventKind.UNKNOWN, T0))).sentence


def test_timeline_names_time_in_which_nothing_happened() -> None:
    shown = timeline_entries(
        history(request(1), acked(1, T0 + 100), event(1, EventKind.OPENED, T0 + 3 * 3_600_000)).timeline,
        masks_addresses=False,
    )
    assert [entry.idle for entry in shown] == ["", "", "2 h 59 min"]
    assert [entry.title for entry in shown] == ["accepted", "sent", "opened"]


def test_timeline_counts_repeats_and_marks_machines() -> None:
    opened = msgspec.structs.replace(event(1, EventKind.OPENED, T0 + 5), machine="scanner")
    facts = history(request(1), opened).timeline
    facts[1] = TimelineFact(opened, ["facts/0/1", "facts/0/7", "facts/0/9"])
    shown = timeline_entries(facts, masks_addresses=False)[1]
    assert (shown.title, shown.repeats, shown.colour) == ("opened by a machine", 2, "")


@pytest.mark.parametrize(
    ("code", "enhanced", "text", "shown"),
    [
        (250, "2.0.0", "OK", "250 2.0.0 OK"),
        (250, "2.0.0", "250 2.0.0 OK", "250 2.0.0 OK"),
        (250, "2.0.0", "2.0.0 Ok: queued", "250 2.0.0 Ok: queued"),
        (0, "", "connection lost", "connection lost"),
        (550, "5.1.1", "", "550 5.1.1"),
    ],
)
def test_reply_has_each_code_once(code: int, enhanced: str, text: str, shown: str) -> None:
    assert reply_text(Rejected(**COMMON, code=code, enhanced=enhanced, text=text)) == shown


def test_timeline_of_failures_leaves_the_rest_out() -> None:
    facts = history(
        request(1),
        acked(1, T0),
        event(1, EventKind.BOUNCED, T0 + 9),
        conversion_result(1, ConversionWord.BOUNCE, ConversionOutcome.RETRYING, T0 + 10),
        conversion_result(1, ConversionWord.BOUNCE, ConversionOutcome.DELIVERED, T0 + 11),
    ).timeline
    shown = timeline_entries(facts, masks_addresses=False, failures_only=True)
    assert [entry.title for entry in shown] == ["bounced", "conversion bounce: failed, tried again"]


def test_masked_timeline_has_no_address() -> None:
    bounced = msgspec.structs.replace(event(1, EventKind.BOUNCED, T0), text="<anna@example.com> unknown")
    shown = timeline_entries(history(request(1), bounced).timeline, masks_addresses=True)
    assert "anna@" not in repr(shown)
    assert "unknown" in shown[1].words
