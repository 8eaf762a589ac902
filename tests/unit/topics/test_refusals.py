"""Whom a refusal blames: the same answer for an SMTP reply, an ack on the log, a report by mail and a webhook."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pipeline.dispatch.transports import smtp_replies
from pipeline.dispatch.transports.base import SendOutcome, SendResult
from pipeline.dispatch.transports.smtp_replies import SmtpStage
from pipeline.jobs.job import EndpointHealth
from pipeline.webhooks.base import EventContext
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.providers import sendgrid
from pipeline.worker.fold import evolve, state_of_fact
from projections.suppression_rules import evidence_of
from tests.support.changes import T0, event, identified, request
from topics import refusals
from topics.acks import Rejected
from topics.events import BounceClass, EventKind
from topics.refusals import RefusalCause, judge_refusal
from topics.suppressions import SuppressionReason

GOLDEN = Path(__file__).parents[2] / "golden" / "verdict"
HARD, SOFT = BounceClass.HARD, BounceClass.SOFT
EXPECTED = {
    "reply_dkim_beside_address": RefusalCause.SENDER,
    "reply_helo_host_not_found": RefusalCause.SENDER,
    "reply_host_in_an_rbl": RefusalCause.SENDER,
    "reply_ip_address_unknown": RefusalCause.SENDER,
    "reply_ironport_spam_content": RefusalCause.SENDER,
    "reply_null_mx_by_sendmail": RefusalCause.ADDRESS,
    "reply_sender_unknown": RefusalCause.SENDER,
    "reply_spam_content": RefusalCause.SENDER,
    "reply_unverified_sender": RefusalCause.SETUP,
}


def in_conversation(stage: SmtpStage, code: int, text: str) -> tuple[SendResult, Rejected]:
    """The answer, and the ack that a refusal becomes."""
    answer = smtp_replies.smtp_result(stage, code, text)
    said = smtp_replies.ack_text(answer, "player1@example.com")
    ack = Rejected(
        email_id=identified(1),
        event_id="a",
        occurred_at=T0,
        recorded_at=T0,
        code=code,
        enhanced=smtp_replies.enhanced_status(said),
        text=said,
    )
    return answer, ack


def suppresses(ack: Rejected) -> list[SuppressionReason]:
    state = evolve(state_of_fact(request(1)), ack)
    return [key.reason for key in evidence_of(state, str.encode)]


def folded(ack: Rejected) -> BounceClass | None:
    bounce = state_of_fact(ack).bounce
    assert bounce is not None
    return bounce.bounce_class


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_refusal_blames_whom_its_words_blame(name: str) -> None:
    said = (GOLDEN / f"{name}.txt").read_text().strip()
    expected = HARD if EXPECTED[name] is RefusalCause.ADDRESS else SOFT
    if said.startswith("Status: "):
        status, _, diagnostic = said.removeprefix("Status: ").partition("; ")
        assert classify.classify_reply(status, diagnostic).bounce_class is expected
        judged = classify.classify_reply(status, diagnostic)
        cause = judge_refusal(judged.code, judged.enhanced, diagnostic).cause
    else:
        stage, _, reply = said.partition(" -> ")
        code, _, text = reply.partition(" ")
        answer, ack = in_conversation(SmtpStage(stage.lower()), int(code), text)
        cause = judge_refusal(int(code), "", text, stage.lower()).cause
        assert folded(ack) is expected
        assert suppresses(ack) == []
        assert answer.outcome is (SendOutcome.MISCONFIGURED if cause is RefusalCause.SETUP else SendOutcome.REJECTED)
    assert cause is EXPECTED[name]


SAID = [
    (550, "5.7.1 Relaying denied", RefusalCause.SETUP),
    (554, "5.7.1 <x@example.net>: Relay access denied", RefusalCause.SETUP),
    (550, "From address not verified", RefusalCause.SETUP),
    (550, "Unauthenticated senders not allowed", RefusalCause.SETUP),
    (554, "Message rejected: Email address is not verified. The identities failed: a@b.example", RefusalCause.SETUP),
    (530, "5.7.0 Must issue a STARTTLS command first", RefusalCause.SETUP),
    (550, "5.7.1 Authentication required", RefusalCause.SETUP),
    (550, "5.4.5 Daily user sending limit exceeded", RefusalCause.SETUP),
    (550, "Maximum credits exceeded", RefusalCause.SETUP),
    (550, "5.7.1 Your account has been suspended", RefusalCause.SETUP),
    (550, "5.7.60 SMTP; Client does not have permissions to send as this sender", RefusalCause.SETUP),
    (553, "5.7.1 <a@b.example>: Sender address rejected: not owned by user smtp", RefusalCause.SETUP),
    (550, "5.2.1 The email account that you tried to reach is disabled", RefusalCause.ADDRESS),
    (550, "5.2.1 account has been suspended", RefusalCause.ADDRESS),
    (550, "5.4.1 Recipient address rejected: Access denied. AS(201806281)", RefusalCause.ADDRESS),
    (550, "5.4.1 Access denied", RefusalCause.ADDRESS),
    (550, "5.7.1 recipient account has been suspended", RefusalCause.SENDER),
    (
        550,
        "5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; sender not authenticated for group",
        RefusalCause.SENDER,
    ),
    (550, "5.7.134 RESOLVER.RST.SenderNotAuthenticatedForMailbox; authentication required", RefusalCause.SENDER),
    (550, "5.7.1 <[recipient]>: Recipient address rejected: User unknown", RefusalCause.ADDRESS),
    (550, "<recipient>: no such user", RefusalCause.ADDRESS),
    (550, "5.1.1 The name of this mailbox is not in our directory", RefusalCause.ADDRESS),
    (550, "Benutzer nicht vorhanden", RefusalCause.ADDRESS),
    (550, "5.7.1 <recipient>: DKIM signature invalid", RefusalCause.SENDER),
    (550, "5.7.1 [address]: reverse lookup not found", RefusalCause.SENDER),
    (550, "5.7.1 Client address 192.0.2.7 unknown", RefusalCause.SENDER),
    (550, "5.7.1 <shop.example>: Sender address rejected: Domain not found", RefusalCause.SENDER),
    (550, "5.7.27 Sender address has null MX", RefusalCause.SENDER),
    (550, "Your host is listed in an RBL", RefusalCause.SENDER),
    (550, "spam content", RefusalCause.SENDER),
    (552, "5.3.4 Message size exceeds fixed limit", RefusalCause.SENDER),
    (550, "Mailbox is full", RefusalCause.MAILBOX),
    (550, "5.1.1 user is over quota", RefusalCause.MAILBOX),
    (552, "5.2.2 mailbox full", RefusalCause.MAILBOX),
    (550, "From: address not verified", RefusalCause.SETUP),
    (550, "Domain shop.example is not verified", RefusalCause.SETUP),
    (550, "Administrative prohibition", RefusalCause.SENDER),
    (550, "Not authorized", RefusalCause.SENDER),
    (550, "You are banned", RefusalCause.SENDER),
    (550, "no PTR record for 192.0.2.7", RefusalCause.SENDER),
    (550, "We don't accept mail from dynamic IP addresses", RefusalCause.SENDER),
    (550, "Your domain does not exist", RefusalCause.SENDER),
    (550, "From header is invalid", RefusalCause.SENDER),
    (550, "invalid MIME", RefusalCause.SENDER),
    (550, "attachments not accepted", RefusalCause.SENDER),
    (550, "phishing URL found", RefusalCause.SENDER),
    (550, "bulk mail not accepted", RefusalCause.SENDER),
    (550, "TLS required", RefusalCause.SENDER),
    (550, "This recipient refuses mail from your address", RefusalCause.SENDER),
    (450, "4.1.1 user unknown", RefusalCause.OTHER),
    (554, "Transaction failed", RefusalCause.OTHER),
]


@pytest.mark.parametrize(("code", "text", "cause"), SAID)
def test_same_refusal_is_judged_alike_by_every_way(code: int, text: str, cause: RefusalCause) -> None:
    expected = HARD if cause is RefusalCause.ADDRESS else SOFT
    answer, ack = in_conversation(SmtpStage.RCPT, code, text)
    assert judge_refusal(code, smtp_replies.enhanced_status(text), text).cause is cause
    assert classify.classify_reply("", f"{code} {text}").bounce_class is expected
    assert classify.classify_reply("", f"smtp; {code} {text}").bounce_class is expected
    assert folded(ack) is expected
    assert (answer.outcome is SendOutcome.MISCONFIGURED) == (cause is RefusalCause.SETUP)
    if answer.outcome is SendOutcome.MISCONFIGURED:
        assert (answer.health, answer.concerns_one_email) == (EndpointHealth.BROKEN, True)
    payload = {"event": "bounce", "email": "player1@example.com", "timestamp": 1, "reason": f"{code} {text}"}
    bounced = sendgrid.normalize(msgspec.json.encode(payload), EventContext(provider="sg", received_at=1))
    if judge_refusal(code, smtp_replies.enhanced_status(text), text).plain:
        assert (bounced.kind, bounced.bounce_class) == (EventKind.BOUNCED, expected)
    if cause in (RefusalCause.SETUP, RefusalCause.SENDER):
        assert suppresses(ack) == []


@pytest.mark.parametrize("stage", sorted(refusals.EARLY_STAGES))
def test_nothing_said_before_the_recipient_blames_the_recipient(stage: str) -> None:
    for code, text in ((550, ""), (550, "5.1.1 no such user"), (553, "5.1.2 domain does not exist"), (521, "no mail")):
        assert judge_refusal(code, smtp_replies.enhanced_status(text), text, stage).bounce_class is SOFT


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        ("host mx.example.com[192.0.2.1] said: 553 5.1.2 no (in reply to MAIL FROM command)", "mail"),
        ("host mx.example.com[192.0.2.1] said: 550 5.1.1 no (in reply to RCPT TO command)", "rcpt"),
        ("host mx.example.com[192.0.2.1] said: 550 no (in reply to end of DATA command)", "data"),
        ("host mx.example.com refused to talk to me: 554 5.1.1 no", "connect"),
        ("SMTP error from remote mail server after pipelined MAIL FROM:<a@b.c> SIZE=1: 550 5.1.1 no", "mail"),
        ("SMTP error from remote mail server after EHLO mx.example.org: 550 no", "helo"),
        ("while talking to mx.example.com.: >>> RCPT To:<a@b.c> <<< 550 5.1.1 no", "rcpt"),
        ("550 5.1.1 no such user", ""),
    ],
)
def test_stage_is_read_from_the_words_of_a_report(words: str, stage: str) -> None:
    assert refusals.stage_of(words.lower()) == stage
    assert refusals.bounce_class(550, "5.1.1", words) is (SOFT if stage in refusals.EARLY_STAGES else HARD)


def test_bare_refusal_after_the_message_blames_nobody_on_the_log_either() -> None:
    answer, ack = in_conversation(SmtpStage.DATA, 550, "")
    assert (answer.outcome, folded(ack), suppresses(ack)) == (
        SendOutcome.REJECTED,
        SOFT,
        [SuppressionReason.SOFT_BOUNCE],
    )
    _, at_rcpt = in_conversation(SmtpStage.RCPT, 550, "")
    assert folded(at_rcpt) is HARD
    _, named = in_conversation(SmtpStage.DATA, 550, "5.1.1 user unknown")
    assert folded(named) is HARD


def test_day_on_a_blocklist_counts_for_no_soft_bounce() -> None:
    soft = msgspec.structs.replace(event(1, EventKind.BOUNCED, T0), bounce_class=SOFT, code=550)
    for text, reasons in (("listed in an RBL", []), ("mailbox is full", [SuppressionReason.SOFT_BOUNCE])):
        state = evolve(state_of_fact(request(1)), msgspec.structs.replace(soft, text=text))
        assert [key.reason for key in evidence_of(state, str.encode)] == reasons


def test_words_beyond_the_limit_are_not_read() -> None:
    assert judge_refusal(550, "5.7.1", "x " * refusals.MAX_TEXT_CHARS + "user unknown").cause is RefusalCause.SENDER
    assert judge_refusal(550, "5.7.1", "user unknown").cause is RefusalCause.ADDRESS


PIECES = (
    "exceed ",
    "user ",
    "invalid ",
    "box ",
    "message ",
    "over ",
    "host a",
    "a@",
    "your a ",
    "relay ",
    "address 1.",
)


def grows(call: Callable[[str], object], piece: str, chars: int) -> float:
    """How much longer twice the text takes."""

    def cost(text: str) -> float:
        def once() -> float:
            start = time.process_time()
            call(text)
            return time.process_time() - start

        return min(once() for _ in range(5))

    few, many = piece * (chars // len(piece)), piece * (2 * chars // len(piece))
    return cost(many) / max(cost(few), 1e-6)


PATTERNS = {
    name: getattr(judged, "pattern", judged) if isinstance(judged, refusals._Phrases) else judged
    for name, judged in vars(refusals).items()
    if isinstance(judged, re.Pattern | refusals._Phrases)
}


def test_every_pattern_is_looked_at() -> None:
    assert len(PATTERNS) > 8
    assert all(isinstance(pattern, re.Pattern) for pattern in PATTERNS.values())


@pytest.mark.parametrize(("code", "text", "cause"), SAID)
def test_required_words_are_in_every_match_of_their_pattern(code: int, text: str, cause: RefusalCause) -> None:
    for name in ("_SETUP_FAULT", "_MAILBOX_BUSY", "_BLOCKLISTED", "_UNKNOWN_RECIPIENT", "_SENDER_SIDE_WORDS"):
        phrases = getattr(refusals, name)
        said = refusals._plain(text)
        assert bool(phrases.pattern.search(said)) == bool(phrases.search(said)), (name, code, cause)


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_patterns_take_linear_time(name: str) -> None:
    slow = [piece for piece in PIECES if grows(PATTERNS[name].search, piece, 20_000) > 3.0]
    # A second look: the machine may have been busy at the first.
    assert [piece for piece in slow if grows(PATTERNS[name].search, piece, 80_000) > 3.0] == []


REPEATED = [
    "5.7.1 <a@b.example>: Recipient address rejected: undeliverable address: host mx.b.example[192.0.2.1] said: "
    "550 relaying denied (in reply to RCPT TO command)",
    "5.7.1 <a@b.example>: Recipient address rejected: unverified address: unverified sender",
    "Verification failed for <a@b.example> Called: 192.0.2.1 Sent: RCPT TO:<a@b.example> Response: 550 relay denied",
    "Callout verification failed: 550 your account has been suspended",
]


@pytest.mark.parametrize("text", REPEATED)
@pytest.mark.parametrize("stage", [SmtpStage.RCPT, SmtpStage.DATA])
def test_quoted_refusal_does_not_pause_the_lane(text: str, stage: SmtpStage) -> None:
    answer = smtp_replies.smtp_result(stage, 550, text)
    assert answer.outcome is SendOutcome.MISCONFIGURED, "it may be ours: it bounces nobody, and is tried again"
    assert answer.health is EndpointHealth.HEALTHY


def test_set_up_fault_told_by_the_recipients_own_server_holds_no_lane() -> None:
    for text in ("5.7.1 relaying denied", "unverified sender"):
        answer = smtp_replies.as_recipient_server_result(smtp_replies.smtp_result(SmtpStage.RCPT, 550, text))
        assert (answer.outcome, answer.health) == (SendOutcome.MISCONFIGURED, EndpointHealth.HEALTHY)
    for early in (
        smtp_replies.smtp_result(SmtpStage.MAIL, 550, "no"),
        smtp_replies.smtp_result(SmtpStage.DATA, 421, "busy"),
    ):
        assert smtp_replies.as_recipient_server_result(early) is early
