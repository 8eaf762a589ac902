"""Extract a mail server's text for people, and the reason of a failure in it; the readers of bounces call it."""

import re
from typing import Final

from pipeline.webhooks.bounces.mime import MimeMessage
from topics import refusals

MAX_WORDS_CHARS: Final = 20_000
"""Characters in which the reason is looked for: what follows is our message."""
MAX_REASON_CHARS: Final = 600
MAX_BEFORE_CHARS: Final = 300
"""Characters before the reason in which the stage is looked for."""

# All repetitions are bounded: anybody may write these texts, and a pattern must not take quadratic time.
_RETURNED_MESSAGE: Final = re.compile(
    r"(?im)^[^\w\n]{0,80}(?:below (?:this line )?is a copy|this is a copy of|(?:the )?original message(?! was)"
    r"|unsent message|message headers? follows?|returned message|message text follows|the first \d+ lines? of"
    r"|received message follows|included is a copy|undelivered message)\b"
    r"|^(?:return-path|received|dkim-signature|message-id): "
)
_QUOTED_REPLY: Final = re.compile(
    r"(?im)(?:^|said:?|says:?|\]:|<<<|reason:?|was:?|returned:?|error_code *:|response:?|['\";:]) {0,9}\n? {0,9}"
    r"(?P<reason>[45]\d\d(?:[ -]#?(?:[^\s\d]|[45]\.\d{1,3}\.\d)| {0,9}$|:))"
)
_HASH_CODE: Final = re.compile(r"(?P<reason>.{0,200}#[45]\.\d{1,3}\.\d{1,3})")
_ENHANCED_CODE: Final = re.compile(r"(?m)^(?P<reason>.{0,200}(?<![\d.])[45]\.\d{1,3}\.\d{1,3}(?![\d.]))")
_REASON_WORDS: Final = re.compile(
    r"(?im)^(?P<reason>.{0,200}(?:unknown (?:user|recipient|address)|no such|unrouteable|quota|mailbox full|invalid"
    r"|(?:mailbox|folder) (?:\S{1,60} ){0,3}?full|full (?:in|mail)box|space (?:is )?not enough|not accepting|too big"
    r"|did not (?:exactly )?match|final (?:e-?mail )?delivery point|n'existe pas|unbekannt|no matches"
    r"|could not find|not (?:been )?collected|exceeded"
    r"|no valid|unavailable|not (?:listed|found|exist|recogni)|timed? ?out|refused|denied|rejected|too (?:large|long)"
    r"|domain|spam"
    r"|host (?:\S{1,60} ){0,3}?(?:not|un)|no smtp|mx record"
    r"|(?:user|recipient|address|mailbox|account) (?:\S{1,60} ){0,3}?(?:unknown|not|does|is |has |over|full|exceed)))"
)
_BLANK_LINE: Final = re.compile(r"\n[ \t]{0,80}\n")


def own_words(message: MimeMessage) -> str:
    """Return the sender's own text, without the message that it returns."""
    part = message.first("text/plain")
    if part is None:
        markup = message.first("text/html")
        text = "" if markup is None else re.sub(r"<[^<>]{0,2000}>", " ", markup.text[: MAX_WORDS_CHARS * 4])
    else:
        text = part.text
    text = text[:MAX_WORDS_CHARS]
    returned = _RETURNED_MESSAGE.search(text)
    return text[: returned.start()] if returned else text


def reason(text: str) -> str:
    """Return the lines with the reason: a quoted reply, else one with a code, else one with typical words."""
    start = _reason_start(text)
    return "" if start is None else _first_paragraph(text[start:][:MAX_REASON_CHARS])


def with_stage(reason: str, text: str) -> str:
    """Return the reason, with the stage of the SMTP conversation appended if only the text before it names the stage.

    The reason is stored in this form, so that a later judgement has the same evidence.
    """
    start = _reason_start(text)
    if start is None or not reason or refusals.stage_of(reason.lower()):
        return reason
    stage = refusals.stage_of(" ".join(text[max(0, start - MAX_BEFORE_CHARS) : start].lower().split()))
    return f"{reason} {refusals.STAGE_PHRASES[stage]}" if stage in refusals.STAGE_PHRASES else reason


def _reason_start(text: str) -> int | None:
    patterns = (_QUOTED_REPLY, _HASH_CODE, _ENHANCED_CODE, _REASON_WORDS)
    match = next(filter(None, (pattern.search(text) for pattern in patterns)), None)
    return None if match is None else match.start("reason")


def _first_paragraph(text: str) -> str:
    return " ".join(_BLANK_LINE.split(text, maxsplit=1)[0].split())
