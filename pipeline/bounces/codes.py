"""What a server said why it did not take an email, in; its codes, and whether the address is worth another try, out.

Hard means: this address will not work, and writing to it again harms our name. Soft means: this email failed, and
the reason is not that nobody lives there. https://www.iana.org/assignments/smtp-enhanced-status-codes
"""

import re
from typing import Final

import msgspec

from pipeline.hearing import words
from pipeline.hearing.privacy import hide_all
from topics.events import BounceClass

HARD: Final = {
    "1.0": "other address status: in use for what the others below mean",
    "1.1": "no such mailbox",
    "1.2": "no such domain",
    "1.3": "an address that can't be",
    "1.4": "an address that means several mailboxes",
    "1.6": "moved, and no word where to",
    "1.10": "the domain takes no mail (null MX, RFC 7505)",
    "2.1": "the mailbox is disabled",
    "4.4": "nowhere to deliver to: the domain has no server",
    "4.310": "Exchange Online: the domain does not exist",
    "7.13": "the account is disabled",
    "7.17": "the mailbox has another owner since (RFC 7293)",
}
SOFT: Final = {
    "1.5": "the address is fine",
    "1.7": "about the sender's address, not the recipient's",
    "1.8": "about the sender's domain",
    "1.9": "handed to a server that speaks another protocol",
    "2": "the mailbox is full (5.2.2), takes no message as long (5.2.3), or its list does not unfold (5.2.4)",
    "3": "the recipient's server: full, down, or the message is too long for it",
    "4": "the network on the way: no answer, a loop, too old",
    "5": "a misunderstanding between servers",
    "6": "the message's content or format",
    "7": "policy: spam, reputation, authentication; about the sender or the message",
}
"""By subject and detail (RFC 3463) without the class digit, else by the subject alone."""
ALWAYS_HARD: Final = frozenset({521, 556})
"""The host or the domain takes no mail at all (RFC 7504)."""
HARD_REPLIES: Final = frozenset({550, 551, 553})
"""By the reply code alone (RFC 5321 §4.2.3), where the enhanced code is missing or says nothing."""
GENERIC: Final = frozenset({"", "4.1", "7.1"})


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# Servers choose codes carelessly, and say plainly what they mean. In this order, the first that fits decides.
TODAY: Final = _any(
    r"(?:over|exceed\w*|out of|disk) +(?:\w+ +){0,3}(?:quota|storage|space)",
    r"quota (?:\w+ )?exceed|over ?quota|insufficient (?:system )?storage",
    r"(?:mail|in)?box (?:\w+ ){0,3}full|too many messages in",
    r"receiving mail (?:at a rate|too)|temporar(?:y|ily)\b|not found, try again|try again later",
)
"""Another day it may fit, whatever the code says."""
LISTED: Final = _any(r"black ?list|block ?list|dnsbl|\brbl\b|spamhaus|spamcop|too many recipients|reputation")
"""The sending server is on somebody's list, whatever the code says."""
NOBODY: Final = _any(
    r"\b(?:user|recipient|mailbox|account|address|addressee|alias)s?\b.{0,60}?(?:unknown|not found|not exist|no longer"
    r"|doesn't exist|doesn't have|does not have|disabled|inactive|not listed|unavailable|invalid|not recogni[sz]ed)",
    r"(?:unknown|invalid|no such|nonexistent|bad destination|no valid)[ -](?:\w+[ -]){0,2}"
    r"(?:user|recipient|address|mailbox|account|person|alias|local|here)",
    r"no mailbox here|unrouteable address|recipientnotfound|recipnotfound|not our customer|delivery userid",
    r"host (?:\S+ )?not found|domain name not found|no such domain|domain (?:\S+ )?(?:does not|doesn't) exist",
    r"host unknown|unknown host|no mx record found|no smtp service|nullmx|couldn't find any host named",
    r"recipient address(?:es)? rejected ?: access denied",  # Exchange Online's words for nobody known by that name
)
OTHERS: Final = _any(
    r"sender|relay|rate limit|too many|not permitted|not allowed|polic(?:y|ies)|content|virus|\bspam|\bblocked",
    r"dmarc|\bspf\b|\bdkim\b|authenticat|access|denied|forbidden|violation|hop count",
    r"message (?:was |is )?(?:\w+ )?rejected",
)
"""About the sender, the message or the way; where they stand beside the words above, those are about them, too."""


class Verdict(msgspec.Struct, frozen=True):
    """The codes that a report comes down to, and what they mean for the address."""

    code: int
    enhanced: str
    bounce_class: BounceClass


def judge(status: str, diagnostic: str) -> Verdict:
    """Read the status field and the server's words together."""
    said = words.enhanced_code(diagnostic.replace("#", " "))
    enhanced = next((one for one in (said, status) if one and not one.endswith(".0")), said or status)
    code = words.reply_code(diagnostic)
    return Verdict(code, enhanced, _class(code, enhanced, hide_all(diagnostic)))


def for_address(verdict: Verdict, forwarded: bool) -> BounceClass:
    """What a bounce says of the address that we wrote to.

    Where its owner forwards to an address that is gone, ours took the mail: another try is due, and if it goes on
    bouncing the threshold of soft bounces ends it.
    """
    return BounceClass.SOFT if forwarded else verdict.bounce_class


def _class(code: int, enhanced: str, text: str) -> BounceClass:
    detail = enhanced.partition(".")[2]
    if enhanced.startswith("4") or (not enhanced and code // 100 == 4) or TODAY.search(text) or LISTED.search(text):
        return BounceClass.SOFT
    if _says_little(detail):
        others = OTHERS.search(text)
        if NOBODY.search(text) and not (others and "sender" in others[0].lower()):
            return BounceClass.HARD
        if others:
            return BounceClass.SOFT
    if code in ALWAYS_HARD:
        return BounceClass.HARD
    if detail == "0.0" or not enhanced:
        return BounceClass.HARD if code in HARD_REPLIES else BounceClass.SOFT
    return BounceClass.HARD if detail in HARD else BounceClass.SOFT


def _says_little(detail: str) -> bool:
    """Whether the words beside an enhanced code say more than the code: general ones, and vendors' own (5.4.310)."""
    return detail in GENERIC or detail.endswith(".0") or len(detail.rpartition(".")[2]) == 3
