"""Judge a refusal: whom it blames, by how far the conversation came, by its codes and by its words.

The only place for it: the fold judges acks with it, `pipeline.webhooks.bounces` mail that came back, the webhook
adapters what a provider quotes, the carriers an answer, and the suppressions what counts. Pure; reads what a record
holds.
https://www.iana.org/assignments/smtp-enhanced-status-codes
"""

import re
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from topics.events import BounceClass

MAX_TEXT_CHARS: Final = 2_000
"""Characters of a text that are read; no server needs more to say why."""

HARD_CODES: Final = {
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
"""Codes that blame the address, by subject and detail (RFC 3463) without the class digit."""


class RefusalCause(StrEnum):
    """Whom or what a refusal blames."""

    ADDRESS = "address"
    """It will not work, and writing to it again harms our name: a hard bounce."""
    MAILBOX = "mailbox"
    """It is full or busy; another day it may fit."""
    SETUP = "set-up"
    """The sending account, its identities, credentials or allowance: nothing works until somebody repairs it."""
    SENDER = "sender"
    """Our host, name, reputation or message; it says nothing of the address."""
    OTHER = "other"
    """A server, the network or nothing in particular."""


SOFT_CODES: Final = {
    "1.5": RefusalCause.OTHER,  # the address is fine
    "1.7": RefusalCause.SENDER,  # the sender's address
    "1.8": RefusalCause.SENDER,  # the sender's domain
    "1.9": RefusalCause.OTHER,  # handed to a server that speaks another protocol
    "2.3": RefusalCause.SENDER,  # the message is longer than this mailbox takes
    "2": RefusalCause.MAILBOX,  # full (5.2.2), or a list that does not unfold (5.2.4)
    "3.4": RefusalCause.SENDER,  # the message is too big for the system
    "3": RefusalCause.OTHER,  # the recipient's server: full or down
    "4": RefusalCause.OTHER,  # the network on the way: no answer, a loop, too old
    "5": RefusalCause.SENDER,  # a misunderstanding between servers
    "6": RefusalCause.SENDER,  # the message's content or format
    "7": RefusalCause.SENDER,  # policy: spam, reputation, authentication
}
"""All other codes, by subject and detail, else by the subject alone."""
NO_MAIL_REPLIES: Final = frozenset({521, 556})
"""The host or the domain takes no mail at all (RFC 7504)."""
HARD_REPLIES: Final = frozenset({550, 551, 553})
"""By the reply code alone (RFC 5321 §4.2.3), where the enhanced code is missing or says nothing."""
LOGIN_REPLIES: Final = frozenset({530, 534, 535, 538})
"""RFC 4954: log in first, or otherwise."""
GENERIC_CODES: Final = frozenset({"", "4.1", "7.1", "7.27"})
"""Details beside which the words say more. Sendmail writes 7.27 for a recipient's null MX; it is the sender's."""
_RECIPIENT_DETAILS: Final = ("1.1", "2.", "7.133", "7.134", "7.136")
"""Details, or their beginnings, of one recipient: the last are Exchange Online's, for who hears known senders only."""
EARLY_STAGES: Final = frozenset({"connect", "helo", "tls", "auth", "mail"})
"""Before a recipient was named."""


class RefusalJudgement(msgspec.Struct, frozen=True, gc=False):
    """What a refusal comes down to."""

    cause: RefusalCause
    plain: bool = True
    """Whether words or an enhanced code say so; a reply code alone is a guess."""

    @property
    def bounce_class(self) -> BounceClass:
        """Hard where the address is to blame."""
        return BounceClass.HARD if self.cause is RefusalCause.ADDRESS else BounceClass.SOFT


class _Phrases(NamedTuple):
    """A pattern, and words of which at least one is in whatever it finds: most texts have none, and are done sooner."""

    words: tuple[str, ...]
    pattern: re.Pattern[str]

    def search(self, text: str) -> re.Match[str] | None:
        """Return where the pattern is found first."""
        for word in self.words:
            if word in text:
                return self.pattern.search(text)
        return None


def _any(words: str, *patterns: str) -> _Phrases:
    return _Phrases(tuple(words.split("|")), re.compile("|".join(patterns)))


# All patterns read words in lower case with single spaces, and have bounded repetitions only: linear time.
_PART: Final = r"[^\s<>\"'(),:;@\[\]]"
_ADDRESS: Final = re.compile(rf"\[(?:address|recipient)\]|<recipient>|(?<!{_PART}){_PART}+@{_PART}+|%40")
_HOST_ADDRESS: Final = _any(
    "address",
    r"\bip(?:v[46])?[ -]address(?:es)?\b",
    r"\b(?:client|remote|peer|connecting|source)(?: ip)? address\b",
    r"\baddress(?:es)? \[?(?:\d{1,3}\.){3}\d{1,3}\b\]?",
)
_SENDER_ADDRESS: Final = _any(
    "address|path",
    r"\b(?:sender|from|return|reply|envelope|originator)(?:'s)?[ -](?:e-?mail )?address(?:es)?\b",
    r"\breturn[ -]path\b",
)
_STAGE: Final = _any(
    "in reply to|after |>>>|refused to talk",
    r"in reply to (?:the )?"
    r"(initial connection|end of data|data|bdat|rcpt(?: to)?|mail(?: from)?|ehlo|helo|lhlo|starttls|auth)\b",
    r"\bafter (?:sending )?(?:pipelined )?"
    r"(initial connection|end of data|data|rcpt to|mail from|ehlo|helo|starttls|auth)\b",
    r">>> ?(data|rcpt to|mail from|ehlo|helo|auth)\b",
    r"(refused to talk to me)",
)
_STAGES: Final = {
    "end of data": "data",
    "data": "data",
    "bdat": "data",
    "rcpt": "rcpt",
    "rcpt to": "rcpt",
    "mail": "mail",
    "mail from": "mail",
    "starttls": "tls",
    "auth": "auth",
    "initial connection": "connect",
    "refused to talk to me": "connect",
}
STAGE_PHRASES: Final = {
    "connect": "(in reply to initial connection)",
    "helo": "(in reply to HELO command)",
    "tls": "(in reply to STARTTLS command)",
    "auth": "(in reply to AUTH command)",
    "mail": "(in reply to MAIL FROM command)",
    "data": "(in reply to end of DATA command)",
}
"""How the stage of a refusal is written into its text, as Postfix does it; RCPT goes without saying."""
_QUOTED_REPLY: Final = re.compile(r"\A[^\w]{0,9}(?:smtp; ?)?[45]\.[\dx]\.\d - .{0,80}? ([45]\d\d)[- ]'(.{1,1000})'")
"""A gateway's own code and name for it, then the reply in quotation marks (Cisco IronPort)."""

_SETUP_FAULT: Final = _any(
    "relay|authenticat|logged in|verified|quota|limit|credit|"
    "allowance|payment|unpaid|account|sending|to send|not owned",
    r"relay(?:ing)? (?:access )?(?:is |was )?(?:denied|not (?:permitted|allowed)|prohibited|disallowed)",
    r"(?:unable|refuse[sd]?|not (?:permitted|allowed|authori[sz]ed)) to relay"
    r"|(?:cannot|can't|won't|do not|don't) relay",
    r"authentication (?:is )?(?:required|needed)|must (?:be )?authenticate|authenticate first|requires authentication",
    r"(?:user|client|sender|you)(?: is| are)? not (?:authenticated|logged in)|unauthenticated senders?",
    r"\b(?:from:?|senders?|sending|identity|identities|your|email address|domain) (?:\S{1,60} ){0,3}?"
    r"(?:not (?:been )?|un)verified",
    r"unverified (?:senders?|from|domain|identit)|verified sender|not a verified",
    r"\b(?:sending|outbound|outgoing|daily|hourly|monthly) (?:\S{1,30} ){0,3}?(?:quota|limit|credits|allowance)s?\b",
    r"\b(?:out of|maximum|no|not enough|insufficient) (?:\S{1,30} ){0,2}?credits?\b|payment required|unpaid",
    r"\b(?:your|sending|sender's|smtp|customer's) (?:\S{1,30} ){0,2}?account (?:\S{1,30} ){0,3}?"
    r"(?:suspended|disabled|blocked|deactivated|locked|inactive|under review|on hold|restricted|expired)",
    r"(?<!recipient )(?<!recipient's )(?<!mailbox )account (?:is |was |has been )?suspended"
    r"|sending (?:is |was |has been )?(?:paused|suspended|disabled)",
    r"not (?:allowed|permitted|authori[sz]ed) to send (?:e?-?mails? |messages? )?(?:from|as|on behalf)\b",
    r"permissions? to send (?:as|on behalf)|not owned by (?:user|the authenticated)",
)
_MAILBOX_BUSY: Final = _any(
    "quota|storage|space|full|exceed|too many mess|too much|receiving|temporar|try again",
    r"\b(?:over|exceed(?:s|ed|ing)?|out of|insufficient|not enough|no) (?:\w{1,20} ){0,3}?(?:quota|storage|space)",
    r"\bdisk (?:\w{1,20} ){0,3}?(?:quota|storage|space)|space (?:is )?not enough|exdiskquota",
    r"quota (?:\w{1,20} )?(?:exceed|violation|reached)|over ?quota",
    r"(?:box|folder) (?:\S{1,60} ){0,3}?(?:full|exceed)|full (?:mail|in)?box|too many messages in|too much mail",
    r"receiving mail (?:at a rate|too)|temporar(?:y|ily)\b|not found, try again|try again later",
)
"""Another day it may fit, whatever the code says."""
_BLOCKLISTED: Final = _any(
    "list|dnsbl|rbl|spamhaus|spamcop|too many|reputation|standing",
    r"(?:black|block|deny)[ -]?list|dnsbl|\brbls?\b|spamhaus|spamcop|too many recipients|reputation|poor standing",
)
"""The sending server is on somebody's list, whatever the code says."""
_UNKNOWN_RECIPIENT: Final = _any(
    "unknown|not |n't|no |disabled|discontinued|deactivated|inactive|unavailable|invalid|is wrong|exist|"
    "illegal|bad dest|unrouteable|notfound|userid|"
    "inconnu|recens|unbek|desconocido|sconosciuto|nxdomain|mx|access denied",
    r"\b(?:user|recipient|mail ?box|account|address|addressee|alias)(?:e?s)?\b(?:(?!\. )[^;]){0,60}?"
    r"(?:unknown|not found|not exist"
    r"|no longer|doesn't exist|doesn't have|does not have|disabled|discontinued|deactivated|inactive"
    r"|not active|not listed|unavailable|invalid|not valid|not recogni[sz]ed|not known|is wrong)",
    r"(?:unknown|invalid|no such|non-?existent|bad destination|no valid|not a valid|illegal)[ -](?:\w{1,20}[ -]){0,2}?"
    r"(?:user|recipient|address|mailbox|account|person|alias|local|here)",
    r"no mailbox here|unrouteable address|recipientnotfound|recipnotfound|not our customer|delivery userid",
    r"no matches to nameserver|not have a final e-?mail delivery point",
    r"not (?:exactly )?match an? \w{1,20} email address",
    r"adresse (?:\S{1,60} ){0,5}?n'existe pas",
    r"(?:utilisateur|destinataire) (?:non recens|inconnu)|empf(?:ä|ae)nger unbek",
    r"(?:usuario|destinatario) (?:no existe|desconocido|sconosciuto|inesistente)|utente (?:sconosciuto|inesistente)",
    r"\bhost (?:\S{1,80} )?not found|domain name not found|domain (?:\S{1,80} )?(?:does not|doesn't) exist",
    r"host unknown|unknown (?:host|domain)|no such (?:host|domain)|no mx record found|no smtp service|null ?mx"
    r"|nxdomain",
    r"couldn't find any host named|(?:does not|doesn't) accept (?:any )?e?-?mail(?! (?:from|with|of|that|larger))",
    r"recipient (?:address(?:es)? )?rejected ?: access denied",  # Exchange Online's words for nobody of that name
)
_SENDER_SIDE_WORDS: Final = _any(
    "sender|helo|ehlo|reverse|rdns|ptr|client host|hostname|your |header|mime|dmarc|spf|dkim|ip ",
    r"\bsender|\behlo\b|\bhelo\b|reverse (?:dns|lookup|host)|\brdns\b|\bptr\b|client host"
    r"|your (?:reverse )?(?:hostname|host|domain|server)|\bheader|\bmime\b"
    r"|\bdmarc|\bspf\b|\bdkim\b|\bip \[?\d",
)
"""Words after which what is unknown or invalid is ours: a name that we gave, our host, our signature."""
_SENDER_OR_MESSAGE_WORDS: Final = (
    *("sender", "relay", "rate limit", "too many", "not permitted", "not allowed", "policy", "policies", "content"),
    *("virus", "spam", "blocked", "dmarc", "spf", "dkim", "authenticat", "access", "denied", "forbidden", "violation"),
    *("hop count", "unsolicited", "prohibit", "not accepting mail from", "reverse dns", "helo", "ehlo"),
    *("not authori", "unauthori", "banned", "filter", "whitelist", "surbl", "dynamic ip", "ptr record", "quarantin"),
    *(
        "accept mail from",
        "refuses mail",
        "mail from you",
        "challenge",
        "bulk",
        "phish",
        "attachment",
        "header",
        "mime",
    ),
    *("message-id", "tls", "encrypt", "loop", "connection refused", "service unavailable", "try again"),
    *("too large", "too big", "message size"),
)
"""Words about the sender, the message or the way, where none of :data:`_NOBODY` stands beside them."""
_ANOTHER_SERVERS_REPLY: Final = _any(
    "said|in reply to|response|callout|able address|unverified address|verification failed",
    r"\bsaid:? ?[45]\d\d\b|\bin reply to\b|\bresponse:? ?[45]\d\d\b|\bcallout\b",
    r"(?:undeliverable|unverified) address:|\bverification failed for\b",
)
_MESSAGE_REJECTED: Final = re.compile(r"message (?:was |is )?(?:\w{1,20} )?rejected")


def judge_refusal(code: int, enhanced: str, text: str, stage: str = "") -> RefusalJudgement:
    """Return whom a refusal blames.

    ``code``: the SMTP reply, 0 where there is none. ``stage``: how far the conversation came (`connect`, `helo`,
    `tls`, `auth`, `mail`, `rcpt`, `data`); where it is empty, the words may say it.
    """
    code, enhanced, words = _unquoted(code, enhanced, _plain(text))
    found = _judged(code, enhanced, words, stage or stage_of(words))
    again = enhanced.startswith("4") or (not enhanced and code // 100 == 4)
    return RefusalJudgement(RefusalCause.OTHER) if again and found.cause is RefusalCause.ADDRESS else found


def bounce_class(code: int, enhanced: str, text: str = "", stage: str = "") -> BounceClass:
    """Return hard where the address is to blame, soft for everything else."""
    return judge_refusal(code, enhanced, text, stage).bounce_class


def is_setup_fault(code: int, enhanced: str, text: str) -> bool:
    """Return whether a refusal blames the sending account, and so would meet every email."""
    return judge_refusal(code, enhanced, text, "rcpt").cause is RefusalCause.SETUP


def quotes_another_server(text: str) -> bool:
    """Return whether a refusal repeats another server's words, as one that asks the recipient's own at once does.

    Those words are anybody's: they may not stop mail to others.
    """
    return _ANOTHER_SERVERS_REPLY.search(" ".join(text[:MAX_TEXT_CHARS].lower().split())) is not None


def stage_of(text: str) -> str:
    """Return the stage that a text names last; empty: none. For text in lower case."""
    named = ""
    if _STAGE.search(text):
        for found in _STAGE.pattern.finditer(text):
            named = next(filter(None, found.groups()))
    return _STAGES.get(named, "helo" if named else "")


def _plain(text: str) -> str:
    """Return the words without addresses, so that only the recipient's own is called an address."""
    words = " ".join(text[:MAX_TEXT_CHARS].lower().split())
    if "@" in words or "[" in words or "<" in words or "%40" in words:
        words = _ADDRESS.sub("@", words)
    if "address" in words or "path" in words:
        words = _SENDER_ADDRESS.pattern.sub("sender", _HOST_ADDRESS.pattern.sub("ip", words))
    return words


def _unquoted(code: int, enhanced: str, words: str) -> tuple[int, str, str]:
    found = _QUOTED_REPLY.search(words) if "'" in words else None
    if found is None:
        return code, enhanced, words
    said = re.match(r"[45]\.\d{1,3}\.\d{1,3}\b", found[2])
    return int(found[1]), said[0] if said else "", found[2]


def _judged(code: int, enhanced: str, words: str, stage: str) -> RefusalJudgement:
    detail = enhanced.partition(".")[2]
    if stage in EARLY_STAGES:
        return RefusalJudgement(RefusalCause.SENDER)
    for cause, pattern in (
        (RefusalCause.SETUP, _SETUP_FAULT),
        (RefusalCause.MAILBOX, _MAILBOX_BUSY),
        (RefusalCause.SENDER, _BLOCKLISTED),
    ):
        if pattern.search(words) and not (cause is RefusalCause.SETUP and detail.startswith(_RECIPIENT_DETAILS)):
            return RefusalJudgement(cause)
    if code in LOGIN_REPLIES:
        return RefusalJudgement(RefusalCause.SETUP)
    if _says_little(detail) and (cause_by_words := _by_words(detail, words)) is not None:
        return RefusalJudgement(cause_by_words)
    return _by_codes(code, detail, stage)


def _by_words(detail: str, words: str) -> RefusalCause | None:
    nobody = _UNKNOWN_RECIPIENT.search(words)
    if nobody is not None or (detail == "4.1" and "access denied" in words):
        ours = _SENDER_SIDE_WORDS.search(words)
        blames_us = ours is not None and nobody is not None and ours.start() < nobody.end()
        return RefusalCause.SENDER if blames_us else RefusalCause.ADDRESS
    about_us = any(word in words for word in _SENDER_OR_MESSAGE_WORDS) or _MESSAGE_REJECTED.search(words)
    return RefusalCause.SENDER if about_us else None


def _by_codes(code: int, detail: str, stage: str) -> RefusalJudgement:
    if code in NO_MAIL_REPLIES:
        return RefusalJudgement(RefusalCause.ADDRESS)
    if detail in ("", "0.0"):
        # After the message a bare 550 is nearly always about the message: the recipient had been taken before.
        gone = code in HARD_REPLIES and stage != "data"
        return RefusalJudgement(RefusalCause.ADDRESS if gone else RefusalCause.OTHER, plain=False)
    if detail in HARD_CODES:
        return RefusalJudgement(RefusalCause.ADDRESS)
    return RefusalJudgement(SOFT_CODES.get(detail) or SOFT_CODES.get(detail.partition(".")[0], RefusalCause.OTHER))


def _says_little(detail: str) -> bool:
    """Return whether words say more than a code: beside general codes, and vendors' own (5.4.310)."""
    return detail in GENERIC_CODES or detail.endswith(".0") or len(detail.rpartition(".")[2]) == 3
