"""Send several SMTP commands without waiting for a reply to each (PIPELINING, RFC 2920). Called by the SMTP transport.

aiosmtplib waits for each reply, and drops one that it does not wait for. Once it has connected, secured and logged in,
its protocol object is replaced by one that also takes several.
"""

from aiosmtplib import SMTP, SMTPResponse, SMTPResponseException, SMTPServerDisconnected
from aiosmtplib.protocol import MAX_RESPONSE_LENGTH, SMTPProtocol
from aiosmtplib.typing import SMTPStatus


class PipeliningProtocol(SMTPProtocol):
    """The protocol of a connection over which commands may be sent together."""

    _replies_left = 0

    @classmethod
    def adopt(cls, connection: SMTP) -> "PipeliningProtocol":
        """Replace the protocol of a connection on which no reply is awaited."""
        before = connection.protocol
        if before is None or before.transport is None:
            raise SMTPServerDisconnected("Connection lost")
        protocol = cls(before._loop, before._connection_lost_callback)
        protocol.connection_made(before.transport)
        protocol._response_pending = False
        before.transport.set_protocol(protocol)
        connection.protocol = protocol
        return protocol

    async def execute_together(self, *commands: bytes) -> list[SMTPResponse]:
        """Send commands at once, and return their replies in order; after a 421 no further one is waited for.

        Raise SMTPServerDisconnected, and SMTPResponseException for a reply that is none.
        """
        if self._command_lock is None:
            raise SMTPServerDisconnected("Connection lost")
        async with self._command_lock:
            self._replies_left = len(commands)
            try:
                self.write(b"".join(command + b"\r\n" for command in commands))
                replies: list[SMTPResponse] = []
                while self._replies_left:
                    replies.append(await self._next_reply())
                    is_closing = replies[-1].code == SMTPStatus.domain_unavailable
                    self._replies_left = 0 if is_closing else self._replies_left - 1
                return replies
            finally:
                self._replies_left = 0

    def data_received(self, data: bytes) -> None:
        """Keep what comes until its turn while several replies are awaited; otherwise do as aiosmtplib does."""
        waiter = self._response_waiter
        if not self._replies_left or waiter is None:
            super().data_received(data)
            return
        self._buffer.extend(data)
        if waiter.done():
            return
        try:
            if len(self._buffer) > MAX_RESPONSE_LENGTH:
                raise SMTPResponseException(SMTPStatus.invalid_response.value, "Response too long")
            reply = self._read_response_from_buffer()
        except SMTPResponseException as error:
            self._set_response_exception(waiter, error)
        else:
            if reply is not None:
                waiter.set_result(reply)

    async def _next_reply(self) -> SMTPResponse:
        waiter = self._response_waiter
        if waiter is not None and not waiter.done() and (reply := self._read_response_from_buffer()) is not None:
            return reply
        return await self.read_response()
