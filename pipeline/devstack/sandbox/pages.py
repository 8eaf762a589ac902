"""The inbox as two plain pages: messages in, HTML out. Every value passes :class:`_Html`, which escapes it. Pure."""

import datetime
from email.message import EmailMessage
from html import escape
from string import Formatter
from typing import Any, Final

from pipeline.devstack.sandbox.mailbox import SandboxMessage, decoded_text


class _SafeMarkup(str):
    """Markup of our own; everything else is escaped."""

    __slots__ = ()


class _EscapingFormatter(Formatter):
    """``format`` that escapes."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """Every field of a template comes through here."""
        return value if isinstance(value, _SafeMarkup) else escape(format(value, format_spec))


_FORMATTER: Final = _EscapingFormatter()

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} · Mailfold sandbox</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em;
color-scheme: light dark }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ text-align: left; padding: .3em .8em .3em 0; border-bottom: 1px solid #8884; vertical-align: top;
overflow-wrap: anywhere }}
th {{ white-space: nowrap; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: 1em }}
</style></head><body><h1>{title}</h1>{body}</body></html>
"""
_INBOX: Final = """<p>Messages, the newest first ({count}); as JSON at <a href="/messages">/messages</a>.</p>
<table><tr><th>#</th><th>Received (UTC)</th><th>To</th><th>Subject</th><th>What happened</th></tr>{rows}</table>"""
_ROW: Final = """<tr><td><a href="/inbox/{number}">{number}</a></td><td>{at}</td><td>{to}</td><td>{subject}</td>
<td>{told}</td></tr>"""
_MESSAGE: Final = """<p><a href="/">Inbox</a> · <a href="/messages/{number}">JSON</a> ·
<a href="/messages/{number}/raw">as it came</a></p>
<table><tr><th>Envelope from</th><td>{sender}</td></tr><tr><th>Envelope to</th><td>{to}</td></tr>
<tr><th>Received (UTC)</th><td>{at}, {size} bytes, {tls}</td></tr>
<tr><th>What happened</th><td>{told}</td></tr></table><h2>Headers</h2><pre>{headers}</pre>{parts}"""
_PART: Final = "<h2>{kind}</h2><pre>{text}</pre>"


def inbox(messages: list[SandboxMessage]) -> str:
    """The list."""
    rows = [
        _fill(
            _ROW,
            number=message.number,
            at=_time(message.received_at),
            to=", ".join(message.recipients),
            subject=message.subject(),
            told=", ".join(message.event_history),
        )
        for message in messages
    ]
    return _fill(_PAGE, title="Inbox", body=_fill(_INBOX, count=len(messages), rows=_SafeMarkup("".join(rows))))


def message(shown: SandboxMessage) -> str:
    """One message: its source, never rendered, for showing its pixel would be an open."""
    parts = [_fill(_PART, kind=part.get_content_type(), text=_text(part)) for part in shown.parts()]
    body = _fill(
        _MESSAGE,
        number=shown.number,
        sender=shown.mail_from,
        to=", ".join(shown.recipients),
        at=_time(shown.received_at),
        size=len(shown.raw),
        tls="TLS" if shown.tls else "no TLS",
        told=", ".join(shown.event_history),
        headers="\n".join(f"{name}: {value}" for name, value in shown.headers()),
        parts=_SafeMarkup("".join(parts)),
    )
    return _fill(_PAGE, title=shown.subject() or "(no subject)", body=body)


def _fill(template: str, **values: Any) -> _SafeMarkup:
    return _SafeMarkup(_FORMATTER.format(template, **values))


def _text(part: EmailMessage) -> str:
    if part.get_content_maintype() != "text":
        return "(not text)"
    text = decoded_text(part)
    return "(in a character set that can't be read)" if text is None else text


def _time(millis: int) -> str:
    return datetime.datetime.fromtimestamp(millis / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
