"""A message in; the words in it that a mail server wrote for people, and the line of them that says why, out."""

import re
from typing import Final

from pipeline.webhooks.bounces.mime import MimeMessage
from topics import verdict

MAX_WORDS_CHARS: Final = 20_000
"""Characters that can hold the reason: what follows is our message."""
MAX_REASON_CHARS: Final = 600
MAX_BEFORE_CHARS: Final = 300
"""Characters before the reason in which the stage is looked for."""

# Runs are bounded everywhere: who writes these texts may be anybody, and a pattern must not take quadratic time.
_CUT: Final = re.compile(
    r"(?im)^[^\w\n]{0,80}(?:below (?:this line )?is a copy|this is a copy of|(?:the )?original message(?! was)"
    r"|unsent message|message headers? follows?|returned message|message text follows|the first \d+ lines? of"
    r"|received message follows|included is a copy|undelivered message)\b"
    r"|^(?:return-path|received|dkim-signature|message-id): "
)
_SAID: Final = re.compile(
    r"(?im)(?:^|said:?|says:?|\]:|<<<|reason:?|was:?|returned:?|error_code *:|response:?|['\";:]) {0,9}\n? {0,9}"
    r"(?P<said>[45]\d\d(?:[ -]#?(?:[^\s\d]|[45]\.\d{1,3}\.\d)| {0,9}$|:))"
)
_HASH: Final = re.compile(r"(?P<said>.{0,200}#[45]\.\d{1,3}\.\d{1,3})")
_ENHANCED: Final = re.compile(r"(?m)^(?P<said>.{0,200}(?<![\d.])[45]\.\d{1,3}\.\d{1,3}(?![\d.]))")
_REASON: Final = re.compile(
    r"(?im)^(?P<said>.{0,200}(?:unknown (?:user|recipient|address)|no such|unrouteable|quota|mailbox full|invalid"
    r"|(?:mailbox|folder) (?:\S{1,60} ){0,3}?full|full (?:in|mail)box|space (?:is )?not enough|not accepting|too big"
    r"|did not (?:exactly )?match|final (?:e-?mail )?delivery point|n'existe pas|unbekannt|no matches"
    r"|could not find|not (?:been )?collected|exceeded"
    r"|no valid|unavailable|not (?:listed|found|exist|recogni)|timed? ?out|refused|denied|rejected|too (?:large|long)"
    r"|domain|spam"
    r"|host (?:\S{1,60} ){0,3}?(?:not|un)|no smtp|mx record"
    r"|(?:user|recipient|address|mailbox|account) (?:\S{1,60} ){0,3}?(?:unknown|not|does|is |has |over|full|exceed)))"
)
_END: Final = re.compile(r"\n[ \t]{0,80}\n")


def own_words(letter: MimeMessage) -> str:
    """The sender's own words, without the message that it returns."""
    part = letter.first("text/plain")
    if part is None:
        markup = letter.first("text/html")
        text = "" if markup is None else re.sub(r"<[^<>]{0,2000}>", " ", markup.text[: MAX_WORDS_CHARS * 4])
    else:
        text = part.text
    text = text[:MAX_WORDS_CHARS]
    cut = _CUT.search(text)
    return text[: cut.start()] if cut else text


def reason(text: str) -> str:
    """The lines that say why: what the other server answered, else what holds a code, else what sounds like it."""
    start = _start(text)
    return "" if start is None else _line(text[start:][:MAX_REASON_CHARS])


def with_stage(reason: str, text: str) -> str:
    """Return a reason that says how far the conversation had come, where only the words before it do.

    It goes on the log so: who judges it again later has the same evidence.
    """
    start = _start(text)
    if start is None or not reason or verdict.stage_of(reason.lower()):
        return reason
    stage = verdict.stage_of(" ".join(text[max(0, start - MAX_BEFORE_CHARS) : start].lower().split()))
    return f"{reason} {verdict.STAGE_PHRASES[stage]}" if stage in verdict.STAGE_PHRASES else reason


def _start(text: str) -> int | None:
    found = next(filter(None, (pattern.search(text) for pattern in (_SAID, _HASH, _ENHANCED, _REASON))), None)
    return None if found is None else found.start("said")


def _line(text: str) -> str:
    return " ".join(_END.split(text, maxsplit=1)[0].split())
