"""Classifies refusals: what a refusal blames, by the stage of the SMTP conversation, its codes and its words. Pure.

All classification is here: the fold calls it for acks, `pipeline.webhooks.bounces` for bounced mail, the webhook
adapters for quoted replies, the transports for a server's answer, and the suppression rules for soft bounces.
https://www.iana.org/assignments/smtp-enhanced-status-codes
"""

import re
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from topics.events import BounceClass

MAX_TEXT_CHARS: Final = 2_000
"""Characters of a text that are read, which is enough for any server's reason."""

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
    """The cause of a refusal."""

    ADDRESS = "address"
    """The address will never work, and writing to it again harms the sender's reputation: a hard bounce."""
    MAILBOX = "mailbox"
    """The mailbox is full or busy; it may accept mail later."""
    SETUP = "set-up"
    """The sending account, its identities, credentials or allowance: all mail fails until an operator repairs it."""
    SENDER = "sender"
    """Our host, name, reputation or message; this says nothing about the address."""
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
"""Reply codes that blame the address (RFC 5321 §4.2.3) if the enhanced code is missing or generic."""
LOGIN_REPLIES: Final = frozenset({530, 534, 535, 538})
"""Reply codes for a missing or failed login (RFC 4954)."""
GENERIC_CODES: Final = frozenset({"", "4.1", "7.1", "7.27"})
"""Codes that the text overrules. 7.27 means the sender's null MX, but Sendmail writes it for a recipient's, too."""
_RECIPIENT_DETAILS: Final = ("1.1", "2.", "7.133", "7.134", "7.136")
"""Prefixes of codes about one recipient; Exchange Online uses 7.133 to 7.136 if one accepts known senders only."""
EARLY_STAGES: Final = frozenset({"connect", "helo", "tls", "auth", "mail"})
"""Stages of the conversation before a recipient was named."""


class RefusalJudgement(msgspec.Struct, frozen=True, gc=False):
    """The classification of a refusal."""

    cause: RefusalCause
    plain: bool = True
    """True if words or an enhanced code show the cause; False if it is a guess from the reply code alone."""

    @property
    def bounce_class(self) -> BounceClass:
        """Return hard if the address is the cause, otherwise soft."""
        return BounceClass.HARD if self.cause is RefusalCause.ADDRESS else BounceClass.SOFT


class _Phrases(NamedTuple):
    """A pattern and words, at least one of which is in every match: a text without them is not searched."""

    words: tuple[str, ...]
    pattern: re.Pattern[str]

    def search(self, text: str) -> re.Match[str] | None:
        """Return the pattern's first match."""
        for word in self.words:
            if word in text:
                return self.pattern.search(text)
        return None


def _any(words: str, *patterns: str) -> _Phrases:
    return _Phrases(tuple(words.split("|")), re.compile("|".join(patterns)))


# All patterns expect text in lower case with single spaces, and have bounded repetitions only: linear time.
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
"""Phrases that name a refusal's stage in its text, as Postfix writes them; RCPT is the default and has none."""
_QUOTED_REPLY: Final = re.compile(r"\A[^\w]{0,9}(?:smtp; ?)?[45]\.[\dx]\.\d - .{0,80}? ([45]\d\d)[- ]'(.{1,1000})'")
"""A gateway's own code and text, then the original reply in quotation marks (Cisco IronPort)."""

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
"""Phrases for a full or busy mailbox, whatever the code says."""
_BLOCKLISTED: Final = _any(
    "list|dnsbl|rbl|spamhaus|spamcop|too many|reputation|standing",
    r"(?:black|block|deny)[ -]?list|dnsbl|\brbls?\b|spamhaus|spamcop|too many recipients|reputation|poor standing",
)
"""Phrases for a sending server on a blocklist, whatever the code says."""
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
    r"recipient (?:address(?:es)? )?rejected ?: access denied",  # Exchange Online's words for an unknown recipient
)
_SENDER_SIDE_WORDS: Final = _any(
    "sender|helo|ehlo|reverse|rdns|ptr|client host|hostname|your |header|mime|dmarc|spf|dkim|ip ",
    r"\bsender|\behlo\b|\bhelo\b|reverse (?:dns|lookup|host)|\brdns\b|\bptr\b|client host"
    r"|your (?:reverse )?(?:hostname|host|domain|server)|\bheader|\bmime\b"
    r"|\bdmarc|\bspf\b|\bdkim\b|\bip \[?\d",
)
"""Words about the sending side: if one precedes "unknown" or "invalid", our host, name or signature is meant."""
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
"""Words about the sender, the message or the route, in a text without :data:`_UNKNOWN_RECIPIENT`."""
_ANOTHER_SERVERS_REPLY: Final = _any(
    "said|in reply to|response|callout|able address|unverified address|verification failed",
    r"\bsaid:? ?[45]\d\d\b|\bin reply to\b|\bresponse:? ?[45]\d\d\b|\bcallout\b",
    r"(?:undeliverable|unverified) address:|\bverification failed for\b",
)
_MESSAGE_REJECTED: Final = re.compile(r"message (?:was |is )?(?:\w{1,20} )?rejected")


def judge_refusal(code: int, enhanced: str, text: str, stage: str = "") -> RefusalJudgement:
    """Return the classification of a refusal.

    ``code``: the SMTP reply code, 0 if there is none. ``stage``: the stage of the conversation (`connect`, `helo`,
    `tls`, `auth`, `mail`, `rcpt`, `data`); if it is empty, the text may name it.
    """
    code, enhanced, words = _unquoted(code, enhanced, _plain(text))
    judgement = _judge(code, enhanced, words, stage or stage_of(words))
    is_temporary = enhanced.startswith("4") or (not enhanced and code // 100 == 4)
    if is_temporary and judgement.cause is RefusalCause.ADDRESS:
        return RefusalJudgement(RefusalCause.OTHER)
    return judgement


def bounce_class(code: int, enhanced: str, text: str = "", stage: str = "") -> BounceClass:
    """Return hard if a refusal blames the address, otherwise soft."""
    return judge_refusal(code, enhanced, text, stage).bounce_class


def is_setup_fault(code: int, enhanced: str, text: str) -> bool:
    """Return whether a refusal blames the sending account, so that every email would be refused."""
    return judge_refusal(code, enhanced, text, "rcpt").cause is RefusalCause.SETUP


def quotes_another_server(text: str) -> bool:
    """Return whether a refusal quotes another server, such as the recipient's own that a relay asked.

    Anybody may have written the quoted words, so they must not stop mail to other recipients.
    """
    return _ANOTHER_SERVERS_REPLY.search(" ".join(text[:MAX_TEXT_CHARS].lower().split())) is not None


def stage_of(text: str) -> str:
    """Return the stage that a text in lower case names last; empty if it names none."""
    command = ""
    if _STAGE.search(text):
        for match in _STAGE.pattern.finditer(text):
            command = next(filter(None, match.groups()))
    return _STAGES.get(command, "helo" if command else "")


def _plain(text: str) -> str:
    """Return the text in lower case, in which the word "address" can only mean the recipient's address.

    Email addresses are replaced by "@", and phrases for hosts' and senders' addresses by "ip" and "sender".
    """
    words = " ".join(text[:MAX_TEXT_CHARS].lower().split())
    if "@" in words or "[" in words or "<" in words or "%40" in words:
        words = _ADDRESS.sub("@", words)
    if "address" in words or "path" in words:
        words = _SENDER_ADDRESS.pattern.sub("sender", _HOST_ADDRESS.pattern.sub("ip", words))
    return words


def _unquoted(code: int, enhanced: str, words: str) -> tuple[int, str, str]:
    """Return the code, enhanced code and text of the reply that a gateway quotes; otherwise the arguments."""
    reply = _QUOTED_REPLY.search(words) if "'" in words else None
    if reply is None:
        return code, enhanced, words
    quoted_enhanced = re.match(r"[45]\.\d{1,3}\.\d{1,3}\b", reply[2])
    return int(reply[1]), quoted_enhanced[0] if quoted_enhanced else "", reply[2]


def _judge(code: int, enhanced: str, words: str, stage: str) -> RefusalJudgement:
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
    if _is_generic(detail) and (cause_by_words := _judge_by_words(detail, words)) is not None:
        return RefusalJudgement(cause_by_words)
    return _judge_by_codes(code, detail, stage)


def _judge_by_words(detail: str, words: str) -> RefusalCause | None:
    unknown = _UNKNOWN_RECIPIENT.search(words)
    if unknown is not None or (detail == "4.1" and "access denied" in words):
        sender_side = _SENDER_SIDE_WORDS.search(words)
        blames_sender = sender_side is not None and unknown is not None and sender_side.start() < unknown.end()
        return RefusalCause.SENDER if blames_sender else RefusalCause.ADDRESS
    names_sender = any(word in words for word in _SENDER_OR_MESSAGE_WORDS) or _MESSAGE_REJECTED.search(words)
    return RefusalCause.SENDER if names_sender else None


def _judge_by_codes(code: int, detail: str, stage: str) -> RefusalJudgement:
    if code in NO_MAIL_REPLIES:
        return RefusalJudgement(RefusalCause.ADDRESS)
    if detail in ("", "0.0"):
        # A 550 after DATA is nearly always about the message, because the server accepted the recipient before.
        blames_address = code in HARD_REPLIES and stage != "data"
        return RefusalJudgement(RefusalCause.ADDRESS if blames_address else RefusalCause.OTHER, plain=False)
    if detail in HARD_CODES:
        return RefusalJudgement(RefusalCause.ADDRESS)
    return RefusalJudgement(SOFT_CODES.get(detail) or SOFT_CODES.get(detail.partition(".")[0], RefusalCause.OTHER))


def _is_generic(detail: str) -> bool:
    """Return whether the text says more than the code: for generic codes and vendors' own ones (5.4.310)."""
    return detail in GENERIC_CODES or detail.endswith(".0") or len(detail.rpartition(".")[2]) == 3
