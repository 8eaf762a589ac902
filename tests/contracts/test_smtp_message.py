"""Test that a message arrives at a real SMTP server byte by byte, whatever its lines begin and end with."""

import aiosmtplib
import pytest

from pipeline.dispatch.transports.smtp import _send_data
from tests.support.smtp_receiver import Receiver, smtp_receiver


async def send(receiver: Receiver, *messages: bytes) -> list[aiosmtplib.SMTPResponse]:
    """Send each message on one connection and return the replies."""
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=receiver.port, start_tls=False) as connection:
        replies = []
        for message in messages:
            await connection.mail("sender@example.com")
            await connection.rcpt("anna@example.com")
            replies.append(await _send_data(connection, message))
        return replies


@pytest.mark.parametrize(
    "message",
    [
        b"Subject: s\r\n\r\ntext\r\n",
        b".\r\n..\r\n.x\r\n\r\n.\r\n",
        b"no line end at the end.",
        b"x\r\n.",
        b"",
        b"\r\n" * 3 + b"." * 900,
        b"a lone\nline feed\r\n.\nand\r.\r\n",
    ],
)
async def test_message_arrives_as_the_client_library_itself_sends_it(message: bytes) -> None:
    async with smtp_receiver() as receiver:
        replies = await send(receiver, message, b"next\r\n")
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=receiver.port, start_tls=False) as connection:
            await connection.mail("sender@example.com")
            await connection.rcpt("anna@example.com")
            await connection.data(message)
    ours, following, expected = (mail.raw for mail in receiver.mails)
    assert (ours, following) == (expected, b"next\r\n")
    assert [reply.code for reply in replies] == [250, 250]


async def test_reply_to_a_refused_message_is_an_error_with_its_code() -> None:
    async with smtp_receiver() as receiver:
        receiver.data["anna@example.com"] = ["554 5.7.1 spam"]
        with pytest.raises(aiosmtplib.SMTPDataError) as error:
            await send(receiver, b"text\r\n")
    assert (error.value.code, error.value.message) == (554, "5.7.1 spam")


async def test_refused_data_command_is_an_error_with_its_code() -> None:
    async with (
        smtp_receiver() as receiver,
        aiosmtplib.SMTP(hostname="127.0.0.1", port=receiver.port, start_tls=False) as connection,
    ):
        with pytest.raises(aiosmtplib.SMTPDataError) as error:
            await _send_data(connection, b"text\r\n")
    assert error.value.code == 503
