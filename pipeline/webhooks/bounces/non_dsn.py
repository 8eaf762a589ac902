"""Recognise bounces in plain text, as MTAs without RFC 3464 write them, by their wording; `parse` calls it.

The return path to which a bounce was sent names the email, so that no recipient has to be found in the text.
"""

import re
from typing import Final, NamedTuple

import msgspec

from pipeline.webhooks.bounces import plain_text
from pipeline.webhooks.bounces.mime import MimeMessage
from pipeline.webhooks.bounces.report import BounceReport, ReportForm


class MtaWording(NamedTuple):
    """A pattern by which a mail server says that it has given up, or that it will try again."""

    writer: str
    words: re.Pattern[str]
    action: str = "failed"


def _wording(writer: str, words: str, action: str = "failed") -> MtaWording:
    return MtaWording(writer, re.compile(words, re.IGNORECASE), action)


# The first match decides: a delay is often reported beside words with which others report a failure.
MTA_WORDINGS: Final = (
    _wording(
        "exim", r"no action is required on your part|message .{0,60}has not (?:yet )?been delivered to", "delayed"
    ),
    _wording("sendmail", r"this is a warning message only|warning: (?:could not|cannot) send message for", "delayed"),
    _wording("postfix", r"your message could not be delivered for .{0,40}\n?.{0,40}it will be retried", "delayed"),
    _wording(
        "gmail", r"will (?:continue|keep) trying to deliver|will retry for|delivery .{0,40}has been delayed", "delayed"
    ),
    _wording("exchange", r"delivery is delayed to these recipients|no need to resend", "delayed"),
    _wording(
        "",
        r"\bwill (?:continue|keep) (?:to try|to attempt|trying|attempting)\b|delivery attempts will continue"
        r"|\b(?:was|been|is) postponed\b",
        "delayed",
    ),
    _wording("qmail", r"this is the qmail-send program|i'm afraid i wasn't able to deliver your message"),
    _wording(
        "exim", r"could not be delivered to (?:one or more of its|all of its|the following) {0,5}\n? {0,5}recipients?"
    ),
    _wording(
        "postfix", r"this is the (?:postfix program|mail system) at|message could not\s{1,9}be delivered to one or more"
    ),
    _wording("gmail", r"delivery to the following recipients? (?:has )?failed|wasn't delivered to .{0,200}because"),
    _wording("exchange", r"did not reach the following recipient|your message (?:can't|couldn't) be delivered"),
    _wording("exchange", r"delivery has failed to these recipients|undeliverable: "),
    _wording("domino", r"was not delivered to:|not listed in (?:domino|public name) directory"),
    _wording("yahoo", r"we were unable to deliver your message to the following address"),
    _wording(
        "sendmail", r"transcript of session follows|following addresses had (?:permanent )?(?:fatal )?(?:delivery )?err"
    ),
    _wording("groupwise", r"the message that you sent was undeliverable to the following"),
    _wording("opensmtpd", r"an error has occurred while attempting to deliver a message for"),
)
GENERIC_BOUNCE_PATTERN: Final = re.compile(
    r"undeliver(?:able|ed)|delivery (?:\w{1,30} )?fail|fail(?:ed|ure) (?:\w{1,30} ){0,3}deliver|returned mail"
    r"|user unknown"
    r"|(?:unable to|could not(?: be)?|cannot(?: be)?|can't be|couldn't be|not be|wasn't|was not) {0,5}\n? {0,5}deliver"
    r"|mail fail(?:ure|ed)|failed mail|permanent (?:fatal )?error|failure notice"
    r"|delivery (?:notification|report|status)"
    r"|no such user|message not delivered|returning message to sender|non-?delivery|mailbox (?:is )?full"
    r"|rejected by|无法(?:发送|投递)|退信|配信できません",
    re.IGNORECASE,
)
"""Words that people use too, so that they count only in the subject or in a message by a mail system."""

_MAILER: Final = re.compile(
    r"mailer-?daemon|post_?master|mail {0,3}delivery|mail {0,3}administrator|system administrator|mdaemon"
    r"|delivery {0,3}(?:subsystem|system)|mail {0,3}system",
    re.IGNORECASE,
)


def read(message: MimeMessage, base: BounceReport) -> list[BounceReport]:
    """Return the report of a bounce in plain text; empty for other mail.

    Call it for mail from a mail system, and for mail without a sender.
    """
    subject = message.fields.get("subject")
    text = f"{subject}\n{plain_text.own_words(message)}"
    wording = next((candidate for candidate in MTA_WORDINGS if candidate.words.search(text)), None)
    if (
        wording is None
        and (is_by_mail_system(message) or GENERIC_BOUNCE_PATTERN.search(subject))
        and GENERIC_BOUNCE_PATTERN.search(text)
    ):
        wording = MtaWording("", GENERIC_BOUNCE_PATTERN)
    if wording is None and "x-failed-recipients" not in message.fields:
        return []
    writer, action = (wording.writer, wording.action) if wording else ("", "failed")
    reason = plain_text.with_stage(plain_text.reason(text), text)
    return [msgspec.structs.replace(base, form=ReportForm.TEXT, writer=writer, action=action, diagnostic=reason)]


def is_by_mail_system(message: MimeMessage) -> bool:
    """Return whether the header says that a mail system wrote the message."""
    fields = message.fields
    is_report = fields.type == "multipart/report" and fields.parameter("report-type").lower() == "delivery-status"
    is_from_mailer = "x-failed-recipients" in fields or bool(_MAILER.search(fields.get("from") + fields.get("sender")))
    return is_report or is_from_mailer
