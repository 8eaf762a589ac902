"""Derive the codes and the class of a bounce from its status and its diagnostic text; the adapters call it.

A hard bounce means that the address does not work, and that further mail to it harms the sender's reputation. A soft
bounce means that this email failed for another reason. The rules are in :mod:`topics.refusals`.
"""

import msgspec

from pipeline.webhooks import status_codes
from topics import refusals
from topics.events import BounceClass


class BounceVerdict(msgspec.Struct, frozen=True):
    """The codes of a report, and what they mean for the address."""

    code: int
    enhanced: str
    bounce_class: BounceClass


def classify_reply(status: str, diagnostic: str) -> BounceVerdict:
    """Return the codes and the bounce class of a status field and a server's reply.

    The reply's enhanced code is preferred, unless it ends in ``.0``, which is unspecific.
    """
    text = diagnostic[: refusals.MAX_TEXT_CHARS]
    quoted = status_codes.enhanced_code(text.replace("#", " "))
    enhanced = next((code for code in (quoted, status) if code and not code.endswith(".0")), quoted or status)
    code = status_codes.reply_code(text)
    return BounceVerdict(code, enhanced, refusals.bounce_class(code, enhanced, text))


def address_bounce_class(bounce: BounceVerdict, forwarded: bool) -> BounceClass:
    """Return the class that a bounce means for the address to which we sent.

    A bounce of an address to which the owner forwards is soft: our address itself accepted the mail. If it bounces
    repeatedly, the limit of soft bounces suppresses it.
    """
    return BounceClass.SOFT if forwarded else bounce.bounce_class


def webhook_bounce_class(reported: BounceClass, code: int, enhanced: str, text: str) -> BounceClass:
    """Return the class of the quoted reply if the reply is unambiguous, else the one that the provider reported."""
    judgement = refusals.judge_refusal(code, enhanced, text)
    return judgement.bounce_class if judgement.plain else reported
