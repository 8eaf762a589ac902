"""The contract of sending MAIL and RCPT at once, on a server that answers in any pieces, and without PIPELINING."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult, SmtpEnvelope
from pipeline.dispatch.transports.smtp import SmtpTransport

OK = "250 2.0.0 OK"


@dataclass
class ScriptedServer:
    """An SMTP server that answers MAIL and RCPT only when it has both, where it offers PIPELINING."""

    pipelining: bool = True
    piece_bytes: int = 10_000
    mail: list[str] = field(default_factory=list)
    """Replies to MAIL, in order; then it accepts. The same for ``rcpt``."""
    rcpt: list[str] = field(default_factory=list)
    port: int = 0
    connections: int = 0
    envelopes: list[tuple[str, ...]] = field(default_factory=list)
    messages: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._reply(writer, "220 scripted")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := (await reader.readline()).decode().strip():
                verb = line.upper()
                if verb.startswith("EHLO"):
                    await self._reply(writer, "250-scripted", *["250-PIPELINING"] * self.pipelining, "250 HELP")
                elif verb.startswith("MAIL"):
                    following = (await reader.readline()).decode().strip() if self.pipelining else ""
                    replies = [self.mail.pop(0) if self.mail else OK]
                    if following:
                        replies.append(self.rcpt.pop(0) if self.rcpt else OK)
                        self.envelopes.append((line, following))
                    await self._reply(writer, *replies)
                    if replies[0].startswith("421"):
                        break
                elif verb.startswith("RCPT"):
                    await self._reply(writer, self.rcpt.pop(0) if self.rcpt else OK)
                elif verb == "DATA":
                    await self._reply(writer, "354 go on")
                    await reader.readuntil(b"\r\n.\r\n")
                    self.messages += 1
                    await self._reply(writer, "250-2.0.0 OK", "250 queued as x1")
                else:
                    await self._reply(writer, OK)
        writer.close()

    async def _reply(self, writer: asyncio.StreamWriter, *lines: str) -> None:
        raw = "".join(f"{line}\r\n" for line in lines).encode()
        for start in range(0, len(raw), self.piece_bytes):
            writer.write(raw[start : start + self.piece_bytes])
            await writer.drain()
            if self.piece_bytes < len(raw):
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def sending(server: ScriptedServer) -> AsyncIterator[SmtpTransport]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    transport = SmtpTransport(timeout=5, local_hostname="mailfold.test")
    try:
        yield transport
    finally:
        await transport.close()
        listening.close()


async def send(
    transport: SmtpTransport, server: ScriptedServer, recipient: str = "anna@example.com", sender: str = "b@x.test"
) -> SendResult:
    provider = Provider("scripted", "127.0.0.1", server.port, tls="off", kind="sandbox")
    commits: list[None] = []
    envelope = SmtpEnvelope(sender, recipient)
    mail = OutgoingEmail(envelope, cast("Any", None), b"Subject: s\r\n\r\ntext\r\n", lambda: commits.append(None))
    result = await transport.send(provider, mail)
    assert len(commits) == (result.stage == "data")
    return result


@pytest.mark.parametrize("piece_bytes", [10_000, 1, 7])
async def test_envelope_is_sent_at_once_and_replies_may_come_in_any_pieces(piece_bytes: int) -> None:
    server = ScriptedServer(piece_bytes=piece_bytes)
    async with sending(server) as transport:
        for number in range(3):
            result = await send(transport, server, f"anna{number}@example.com")
            assert (result.outcome, result.text) == (SendOutcome.TAKEN, "2.0.0 OK\nqueued as x1")
    assert (server.connections, server.messages) == (1, 3)
    assert [rcpt for _, rcpt in server.envelopes] == [f"RCPT TO:<anna{number}@example.com>" for number in range(3)]


@pytest.mark.parametrize("pipelining", [True, False])
async def test_refusal_tells_its_command_and_the_connection_is_used_again(pipelining: bool) -> None:
    server = ScriptedServer(pipelining, mail=["550 5.7.1 sender refused"], rcpt=["503 5.5.1 no MAIL", "550 5.1.1 no"])
    if not pipelining:
        server.rcpt.pop(0)  # it is not asked after a refused MAIL
    async with sending(server) as transport:
        sender_refused = await send(transport, server)
        recipient_refused = await send(transport, server)
        taken = await send(transport, server)
    assert (sender_refused.stage, sender_refused.code) == ("mail", 550)
    assert (recipient_refused.stage, recipient_refused.code) == ("rcpt", 550)
    assert taken.outcome is SendOutcome.TAKEN
    assert server.connections == 1


async def test_server_that_says_goodbye_is_connected_to_again() -> None:
    server = ScriptedServer()
    async with sending(server) as transport:
        await send(transport, server)
        server.mail = ["421 4.3.2 shutting down"]
        assert (await send(transport, server)).outcome is SendOutcome.TAKEN
    assert (server.connections, server.messages) == (2, 2)


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("recipient", ["änna@example.com", "an\x01na@example.com"])
async def test_recipient_that_cannot_be_sent_is_refused_as_if_by_the_server(pipelining: bool, recipient: str) -> None:
    server = ScriptedServer(pipelining)
    async with sending(server) as transport:
        result = await send(transport, server, recipient)
    assert (result.stage, result.code, server.messages) == ("rcpt", 553, 0)
    assert server.envelopes == []


async def test_reply_that_is_none_ends_the_conversation() -> None:
    server = ScriptedServer(mail=["hello"])
    async with sending(server) as transport:
        assert (await send(transport, server)).outcome is not SendOutcome.TAKEN
        assert (await send(transport, server)).outcome is SendOutcome.TAKEN
