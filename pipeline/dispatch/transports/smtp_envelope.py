"""Send the envelope of an email, SMTP's commands MAIL and RCPT. Called by the SMTP transport."""

import re
from dataclasses import dataclass
from typing import Final

import aiosmtplib
from aiosmtplib.email import quote_address
from aiosmtplib.protocol import COMMAND_INJECTION_REGEX

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import OutgoingEmail, SmtpEnvelope
from pipeline.dispatch.transports.smtp_pipelining import PipeliningProtocol
from pipeline.dispatch.transports.smtp_replies import SmtpStage

_PLAIN_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+")


class ConversationProgress:
    """The stage that a conversation has reached."""

    def __init__(self) -> None:
        self.stage = SmtpStage.CONNECT


@dataclass(frozen=True, slots=True)
class _EnvelopeOptions:
    """Parameters of MAIL and RCPT."""

    mail: tuple[str, ...] = ()
    rcpt: tuple[str, ...] = ()


async def send_envelope(
    connection: aiosmtplib.SMTP, provider: Provider, progress: ConversationProgress, mail: OutgoingEmail
) -> None:
    """Send MAIL and RCPT, at once where the server takes that.

    Raise SMTPSenderRefused, SMTPRecipientRefused, SMTPServerDisconnected, and UnicodeError or ValueError for an address
    that cannot be sent; ``progress`` has the stage.
    """
    dsn = _dsn_options(connection, provider, mail.envelope)
    options = _EnvelopeOptions((*_mail_options(connection, mail), *dsn.mail), dsn.rcpt)
    progress.stage = SmtpStage.MAIL
    if isinstance(connection.protocol, PipeliningProtocol):
        await _send_together(connection.protocol, progress, mail.envelope, options)
    else:
        await _send_one_by_one(connection, progress, mail.envelope, options)


async def _send_one_by_one(
    connection: aiosmtplib.SMTP,
    progress: ConversationProgress,
    envelope: SmtpEnvelope,
    options: _EnvelopeOptions,
) -> None:
    encoding = "utf-8" if envelope.utf8 else "ascii"
    await connection.mail(envelope.sender, options=options.mail, encoding=encoding)
    progress.stage = SmtpStage.RCPT
    await connection.rcpt(envelope.recipient, options=options.rcpt, encoding=encoding)


async def _send_together(
    protocol: PipeliningProtocol,
    progress: ConversationProgress,
    envelope: SmtpEnvelope,
    options: _EnvelopeOptions,
) -> None:
    encoding = "utf-8" if envelope.utf8 else "ascii"
    mail = _command("MAIL FROM:", envelope.sender, options.mail, encoding)
    # An address that cannot be sent counts as refused at its own command.
    progress.stage = SmtpStage.RCPT
    rcpt = _command("RCPT TO:", envelope.recipient, options.rcpt, encoding)
    progress.stage = SmtpStage.MAIL
    mail_reply, *rcpt_replies = await protocol.execute_together(mail, rcpt)
    if mail_reply.code != aiosmtplib.SMTPStatus.completed:
        raise aiosmtplib.SMTPSenderRefused(mail_reply.code, mail_reply.message, envelope.sender)
    progress.stage = SmtpStage.RCPT
    [reply] = rcpt_replies
    if reply.code not in (aiosmtplib.SMTPStatus.completed, aiosmtplib.SMTPStatus.will_forward):
        raise aiosmtplib.SMTPRecipientRefused(reply.code, reply.message, envelope.recipient)


def _command(verb: str, address: str, options: tuple[str, ...], encoding: str) -> bytes:
    # The client's own function parses the address as a header's, which takes long.
    quoted = f"<{address}>" if _PLAIN_ADDRESS.fullmatch(address) else quote_address(address)
    command = " ".join((verb + quoted, *options)).encode(encoding)
    if COMMAND_INJECTION_REGEX.search(command):
        raise ValueError("an address contains a control character")
    return command


def _mail_options(connection: aiosmtplib.SMTP, mail: OutgoingEmail) -> list[str]:
    options = [f"SIZE={len(mail.mime_bytes)}"] if connection.supports_extension("size") else []
    if mail.envelope.utf8:
        if not connection.supports_extension("smtputf8"):
            raise aiosmtplib.SMTPSenderRefused(553, "5.6.7 the server takes no address that needs SMTPUTF8", "")
        options += ["SMTPUTF8", "BODY=8BITMIME"]
    return options


def _dsn_options(connection: aiosmtplib.SMTP, provider: Provider, envelope: SmtpEnvelope) -> _EnvelopeOptions:
    """Return the options that ask a plain SMTP server for delivery reports; other kinds of provider send webhooks.

    Each report repeats ENVID, which identifies the email, and ORCPT, the recipient even if the email was forwarded.
    """
    if provider.kind != "smtp" or not envelope.sender or not connection.supports_extension("dsn"):
        return _EnvelopeOptions()
    envid = f"ENVID={_xtext(envelope.sender.partition('@')[0])}"
    orcpt = () if envelope.utf8 else (f"ORCPT=rfc822;{_xtext(envelope.recipient)}",)
    return _EnvelopeOptions(("RET=HDRS", envid), ("NOTIFY=SUCCESS,FAILURE,DELAY", *orcpt))


def _xtext(text: str) -> str:
    """Return text encoded as xtext (RFC 3461 §4): `+`, `=` and all but printable ASCII in hexadecimal."""
    return "".join(char if "!" <= char <= "~" and char not in "+=" else f"+{ord(char):02X}" for char in text)
