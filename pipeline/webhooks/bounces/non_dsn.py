"""A bounce in words only, as MTAs without RFC 3464 write it, in; what it says, and whose words they are, out.

Which email it is about is told by the address it came to; so no one has to be found in the text.
"""

import re
from typing import Final, NamedTuple

import msgspec

from pipeline.webhooks.bounces import plain_text
from pipeline.webhooks.bounces.mime import MimeMessage
from pipeline.webhooks.bounces.report import BounceReport, ReportForm


class MtaWording(NamedTuple):
    """How a program says that it gave up, or goes on trying."""

    writer: str
    words: re.Pattern[str]
    action: str = "failed"


def _dialect(writer: str, words: str, action: str = "failed") -> MtaWording:
    return MtaWording(writer, re.compile(words, re.IGNORECASE), action)


# In order: who goes on trying says so beside words that others use for giving up.
MTA_WORDINGS: Final = (
    _dialect(
        "exim", r"no action is required on your part|message .{0,60}has not (?:yet )?been delivered to", "delayed"
    ),
    _dialect("sendmail", r"this is a warning message only|warning: (?:could not|cannot) send message for", "delayed"),
    _dialect("postfix", r"your message could not be delivered for .{0,40}\n?.{0,40}it will be retried", "delayed"),
    _dialect(
        "gmail", r"will (?:continue|keep) trying to deliver|will retry for|delivery .{0,40}has been delayed", "delayed"
    ),
    _dialect("exchange", r"delivery is delayed to these recipients|no need to resend", "delayed"),
    _dialect(
        "",
        r"\bwill (?:continue|keep) (?:to try|to attempt|trying|attempting)\b|delivery attempts will continue"
        r"|\b(?:was|been|is) postponed\b",
        "delayed",
    ),
    _dialect("qmail", r"this is the qmail-send program|i'm afraid i wasn't able to deliver your message"),
    _dialect(
        "exim", r"could not be delivered to (?:one or more of its|all of its|the following) {0,5}\n? {0,5}recipients?"
    ),
    _dialect(
        "postfix", r"this is the (?:postfix program|mail system) at|message could not\s{1,9}be delivered to one or more"
    ),
    _dialect("gmail", r"delivery to the following recipients? (?:has )?failed|wasn't delivered to .{0,200}because"),
    _dialect("exchange", r"did not reach the following recipient|your message (?:can't|couldn't) be delivered"),
    _dialect("exchange", r"delivery has failed to these recipients|undeliverable: "),
    _dialect("domino", r"was not delivered to:|not listed in (?:domino|public name) directory"),
    _dialect("yahoo", r"we were unable to deliver your message to the following address"),
    _dialect(
        "sendmail", r"transcript of session follows|following addresses had (?:permanent )?(?:fatal )?(?:delivery )?err"
    ),
    _dialect("groupwise", r"the message that you sent was undeliverable to the following"),
    _dialect("opensmtpd", r"an error has occurred while attempting to deliver a message for"),
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
"""Words that people use, too; so they count only where a mail system speaks, or in the subject."""

_MAILER: Final = re.compile(
    r"mailer-?daemon|post_?master|mail {0,3}delivery|mail {0,3}administrator|system administrator|mdaemon"
    r"|delivery {0,3}(?:subsystem|system)|mail {0,3}system",
    re.IGNORECASE,
)


def read(letter: MimeMessage, base: BounceReport) -> list[BounceReport]:
    """The one report of a textual bounce; empty where it is none.

    For mail that a mail system says it wrote, or that has no sender.
    """
    subject = letter.fields.get("subject")
    told = f"{subject}\n{plain_text.own_words(letter)}"
    found = next((one for one in MTA_WORDINGS if one.words.search(told)), None)
    if (
        found is None
        and (is_by_mail_system(letter) or GENERIC_BOUNCE_PATTERN.search(subject))
        and GENERIC_BOUNCE_PATTERN.search(told)
    ):
        found = MtaWording("", GENERIC_BOUNCE_PATTERN)
    if found is None and "x-failed-recipients" not in letter.fields:
        return []
    writer, action = (found.writer, found.action) if found else ("", "failed")
    reason = plain_text.with_stage(plain_text.reason(told), told)
    return [msgspec.structs.replace(base, form=ReportForm.TEXT, writer=writer, action=action, diagnostic=reason)]


def is_by_mail_system(letter: MimeMessage) -> bool:
    """Whether a mail system wrote it, by its own account."""
    fields = letter.fields
    reports = fields.type == "multipart/report" and fields.parameter("report-type").lower() == "delivery-status"
    named = "x-failed-recipients" in fields or bool(_MAILER.search(fields.get("from") + fields.get("sender")))
    return reports or named
