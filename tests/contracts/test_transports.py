"""The contract of all transports, tested with SMTP and each API against real servers."""

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.dispatch.transports.by_kind import TransportRouter
from pipeline.dispatch.transports.registry import APIS
from pipeline.errors import LeaseLost
from pipeline.jobs.job import EndpointHealth
from tests.support.api_servers import Api, api_server
from tests.support.letters import FULL, NOW, mail, without_mime
from tests.support.smtp_receiver import Receiver, smtp_receiver
from topics.requests import HeaderRecipients, Mailbox

TRANSPORTS = ("smtp", *APIS)


def transports(timeout_s: float = 20.0) -> TransportRouter:
    return TransportRouter(timeout=timeout_s, local_hostname="mailfold.test", clock=lambda: NOW)


@dataclass
class TransportSetup:
    """A provider, the transport to it, and the means to make it misbehave."""

    kind: str
    server: Api | Receiver
    router: TransportRouter = field(default_factory=transports)

    @property
    def provider(self) -> Provider:
        if isinstance(self.server, Api):
            return self.server.provider
        return Provider("local", host="127.0.0.1", port=self.server.port, max_connections=4)

    async def send(self, email: OutgoingEmail) -> SendResult:
        takes_mime = self.router.takes_mime(self.provider)
        return await self.router.send(self.provider, email if takes_mime else without_mime(email))

    def count_arrivals(self, email: OutgoingEmail) -> int:
        if isinstance(self.server, Receiver):
            wanted = email.message.message_id
            return sum(seen.message_id == wanted for seen in self.server.mails)
        wanted = email.message.request.email_id
        return sum(seen.email_id == wanted for seen in self.server.mails)

    def misbehave(self, how: str) -> None:
        server = self.server
        if how == "slow":
            self.router = transports(timeout_s=1.0)
        if isinstance(server, Api):
            server.faults += {"hang up": ["reset before"] * 3, "lose": ["reset after"]}.get(how, [])
            server.slow = 2.0 if how == "slow" else 0.0
            server.faults += [REFUSALS[self.kind]] * (how == "refuse us")
        elif how in ("hang up", "lose"):
            server.hang_up_after_data.add("anna@example.com")
        elif how == "slow":
            server.slow["anna@example.com"] = 2.0
        elif how == "refuse us":
            server.mail_from = "550 5.7.1 who are you?"


REFUSALS: dict[str, Any] = {
    "ses": (403, {"message": "The security token is invalid."}, {"x-amzn-ErrorType": "UnrecognizedClientException:x"}),
    "sendgrid": (401, {"errors": [{"message": "authorization required", "field": None, "help": None}]}),
    "mailgun": (401, "Forbidden"),
    "postmark": (401, {"ErrorCode": 10, "Message": "Bad or missing API token."}),
    "resend": (403, {"statusCode": 403, "name": "invalid_api_key", "message": "API key is invalid"}),
}


@pytest.fixture(params=TRANSPORTS)
async def provider_setup(request: pytest.FixtureRequest) -> AsyncIterator[TransportSetup]:
    async with contextlib.AsyncExitStack() as stack:
        kind = str(request.param)
        server: Api | Receiver
        if kind == "smtp":
            server = await stack.enter_async_context(smtp_receiver())
        else:
            server = await stack.enter_async_context(api_server(kind))
        opened = TransportSetup(kind, server)
        stack.push_async_callback(opened.router.close)
        yield opened


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_sent_email_has_provider_message_id_and_correlation(provider_setup: TransportSetup) -> None:
    email = mail(content=FULL, reply_to=("a@shop.example", "b@shop.example"))
    answer = await provider_setup.send(email)
    assert (answer.outcome, answer.health) == (SendOutcome.TAKEN, EndpointHealth.HEALTHY)
    assert answer.provider_message_id
    assert provider_setup.count_arrivals(email) == 1


async def test_only_recipient_gets_email_whatever_headers_name(provider_setup: TransportSetup) -> None:
    header_recipients = HeaderRecipients(
        to=(Mailbox(address="bert@example.com"),), cc=(Mailbox(address="anna@example.com"),)
    )
    await provider_setup.send(mail("anna@example.com", shown=header_recipients))
    if isinstance(provider_setup.server, Receiver):
        assert [seen.recipient for seen in provider_setup.server.mails] == ["anna@example.com"]
    else:
        [seen] = provider_setup.server.mails
        [recipient] = seen.recipients
        assert "anna@example.com" in recipient


async def test_non_ascii_recipient_is_sent_or_refused_by_provider_support(provider_setup: TransportSetup) -> None:
    email, plain = mail("二ノ宮@黒川.日本"), mail()
    answers = [await provider_setup.send(each) for each in (email, plain)]
    is_supported = provider_setup.kind in ("smtp", "mailgun")
    expected = SendOutcome.TAKEN if is_supported else SendOutcome.REFUSED
    assert [answer.outcome for answer in answers] == [expected, SendOutcome.TAKEN]
    assert [provider_setup.count_arrivals(each) for each in (email, plain)] == [int(is_supported), 1]
    assert is_supported or ("SMTPUTF8" in answers[0].text and answers[0].health is EndpointHealth.SILENT)


@pytest.mark.parametrize(
    "values",
    [
        {"reply_to": ("jürgen@shop.example",)},
        {"shown": HeaderRecipients(to=(Mailbox(address="anna@example.com"), Mailbox(address="jürgen@example.com")))},
    ],
)
async def test_non_ascii_address_in_headers_counts_if_it_is_written(
    provider_setup: TransportSetup, values: dict[str, Any]
) -> None:
    answer = await provider_setup.send(mail(**values))
    names_all = provider_setup.kind in ("smtp", "mailgun", "ses") or "reply_to" in values
    refused = names_all and provider_setup.kind not in ("smtp", "mailgun")
    assert answer.outcome is (SendOutcome.REFUSED if refused else SendOutcome.TAKEN)


async def test_server_without_smtputf8_gets_no_non_ascii_address() -> None:
    async with smtp_receiver(enable_SMTPUTF8=False) as receiver:
        provider_setup = TransportSetup("smtp", receiver)
        answers = [await provider_setup.send(each) for each in (mail("jürgen@example.com"), mail())]
        await provider_setup.router.close()
    assert [answer.outcome for answer in answers] == [SendOutcome.REFUSED, SendOutcome.TAKEN]
    assert (answers[0].code, answers[0].health, "SMTPUTF8" in answers[0].text) == (553, EndpointHealth.HEALTHY, True)
    assert [seen.recipient for seen in receiver.mails] == ["anna@example.com"]
    assert receiver.connections == 1, "the connection is as good as before"


async def test_lost_lease_sends_nothing(provider_setup: TransportSetup) -> None:
    def lost() -> None:
        raise LeaseLost

    email = mail(commit=lost)
    with pytest.raises(LeaseLost):
        await provider_setup.send(email)
    assert provider_setup.count_arrivals(email) == 0


async def test_commit_is_called_before_message_is_sent(provider_setup: TransportSetup) -> None:
    arrivals_at_commit: list[int] = []
    email = mail(commit=lambda: arrivals_at_commit.append(provider_setup.count_arrivals(email)))
    await provider_setup.send(email)
    assert arrivals_at_commit[-1] == 0
    assert provider_setup.count_arrivals(email) == 1


async def test_closed_port_is_retried_later(provider_setup: TransportSetup, closed_port: int) -> None:
    closed_provider = dataclasses.replace(
        provider_setup.provider, port=closed_port, api_url=f"http://127.0.0.1:{closed_port}"
    )
    answer = await provider_setup.router.send(closed_provider, mail())
    assert (answer.outcome, answer.health, answer.code) == (SendOutcome.LATER, EndpointHealth.FAILING, 0)


async def test_no_reply_after_message_has_unknown_outcome(provider_setup: TransportSetup) -> None:
    provider_setup.misbehave("slow")
    answer = await provider_setup.send(mail())
    assert (answer.outcome, answer.health, answer.code) == (SendOutcome.UNKNOWN, EndpointHealth.FAILING, 0)


async def test_connection_lost_after_message_has_unknown_outcome(provider_setup: TransportSetup) -> None:
    provider_setup.misbehave("hang up")
    answer = await provider_setup.send(mail())
    assert (answer.outcome, answer.health) == (SendOutcome.UNKNOWN, EndpointHealth.FAILING)


async def test_refused_credential_breaks_lane_without_bounce(provider_setup: TransportSetup) -> None:
    provider_setup.misbehave("refuse us")
    email = mail()
    answer = await provider_setup.send(email)
    assert (answer.outcome, answer.health) == (SendOutcome.MISCONFIGURED, EndpointHealth.BROKEN)
    assert provider_setup.count_arrivals(email) == 0


async def test_concurrent_emails_arrive_once_within_connection_limit(provider_setup: TransportSetup) -> None:
    emails = [mail(f"user{number}@example.com") for number in range(60)]
    answers = await asyncio.gather(*map(provider_setup.send, emails))
    assert {answer.outcome for answer in answers} == {SendOutcome.TAKEN}
    assert [provider_setup.count_arrivals(each) for each in emails] == [1] * 60
    assert len({answer.provider_message_id for answer in answers}) == (1 if provider_setup.kind == "smtp" else 60)
    if isinstance(provider_setup.server, Api):
        assert provider_setup.server.busiest <= 4
    else:
        assert provider_setup.server.open_most <= 4


async def test_incomplete_provider_is_misconfigured(provider_setup: TransportSetup) -> None:
    incomplete = dataclasses.replace(provider_setup.provider, password="", host="")
    answer = await provider_setup.router.send(incomplete, mail())
    assert (answer.outcome, answer.health) == (SendOutcome.MISCONFIGURED, EndpointHealth.BROKEN)
    assert "needs" in answer.text
