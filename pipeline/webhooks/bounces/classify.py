"""Read a report's codes out of its status and its diagnostic, and judge it with them.

Hard means: this address will not work, and writing to it again harms our name. Soft means: this email failed, and
the reason is not that nobody lives there. What means which is said in :mod:`topics.verdict`.
"""

import msgspec

from pipeline.webhooks import status_codes
from topics import verdict
from topics.events import BounceClass


class BounceVerdict(msgspec.Struct, frozen=True):
    """The codes that a report comes down to, and what they mean for the address."""

    code: int
    enhanced: str
    bounce_class: BounceClass


def classify_reply(status: str, diagnostic: str) -> BounceVerdict:
    """Return the codes and the bounce class of a status field and a server's words together."""
    text = diagnostic[: verdict.MAX_TEXT_CHARS]
    said = status_codes.enhanced_code(text.replace("#", " "))
    enhanced = next((one for one in (said, status) if one and not one.endswith(".0")), said or status)
    code = status_codes.reply_code(text)
    return BounceVerdict(code, enhanced, verdict.bounce_class(code, enhanced, text))


def address_bounce_class(verdict: BounceVerdict, forwarded: bool) -> BounceClass:
    """Return what a bounce says of the address that we wrote to.

    Where its owner forwards to an address that is gone, ours took the mail: another try is due, and if it goes on
    bouncing the threshold of soft bounces ends it.
    """
    return BounceClass.SOFT if forwarded else verdict.bounce_class


def webhook_bounce_class(told: BounceClass, code: int, enhanced: str, text: str) -> BounceClass:
    """Return the class of a bounce that a provider calls ``told``: the quoted reply's where that is plain."""
    found = verdict.judge_refusal(code, enhanced, text)
    return found.bounce_class if found.plain else told
