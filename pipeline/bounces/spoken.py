"""A message in; the words in it that a mail server wrote for people, and the line of them that says why, out."""

import re
from typing import Final

from pipeline.bounces.mime import Letter

WORDS_MAX: Final = 20_000
"""Characters that can hold the reason: what follows is our message."""
REASON_MAX: Final = 600

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
    r"|no valid|not (?:listed|found|exist|recogni)|timed? ?out|refused|denied|rejected|too (?:large|long)|domain|spam"
    r"|host (?:\S{1,60} ){0,3}?(?:not|un)|no smtp|mx record"
    r"|(?:user|recipient|address|mailbox|account) (?:\S{1,60} ){0,3}?(?:unknown|not|does|is |has |over|full|exceed)))"
)
_END: Final = re.compile(r"\n[ \t]{0,80}\n")


def words(letter: Letter) -> str:
    """The sender's own words, without the message that it returns."""
    part = letter.first("text/plain")
    if part is None:
        markup = letter.first("text/html")
        text = "" if markup is None else re.sub(r"<[^<>]{0,2000}>", " ", markup.text[: WORDS_MAX * 4])
    else:
        text = part.text
    text = text[:WORDS_MAX]
    cut = _CUT.search(text)
    return text[: cut.start()] if cut else text


def reason(text: str) -> str:
    """The lines that say why: what the other server answered, else what holds a code, else what sounds like it."""
    for pattern in (_SAID, _HASH, _ENHANCED, _REASON):
        found = pattern.search(text)
        if found:
            return " ".join(_END.split(text[found.start("said") :][:REASON_MAX], maxsplit=1)[0].split())
    return ""
