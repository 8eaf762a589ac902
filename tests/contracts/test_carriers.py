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
from pipeline.dispatch.transports.registry import APIS
from pipeline.dispatch.transports.router import TransportRouter
from pipeline.errors import LeaseLost
from pipeline.jobs.job import EndpointHealth
from tests.support.api_servers import Api, api_server
from tests.support.letters import FULL, NOW, mail, without_mime
from tests.support.smtp_receiver import Receiver, smtp_receiver
from topics.requests import HeaderRecipients, Mailbox

CARRIERS = ("smtp", *APIS)


def transports(timeout_s: float = 20.0) -> TransportRouter:
    return TransportRouter(timeout=timeout_s, local_hostname="mailfold.test", clock=lambda: NOW)


@dataclass
class World:
    """One provider with the means to make it misbehave."""

    kind: str
    server: Api | Receiver
    fleet: TransportRouter = field(default_factory=transports)

    @property
    def provider(self) -> Provider:
        if isinstance(self.server, Api):
            return self.server.provider
        return Provider("local", host="127.0.0.1", port=self.server.port, max_connections=4)

    async def send(self, given: OutgoingEmail) -> SendResult:
        takes = self.fleet.takes_mime(self.provider)
        return await self.fleet.send(self.provider, given if takes else without_mime(given))

    def arrived(self, given: OutgoingEmail) -> int:
        if isinstance(self.server, Receiver):
            wanted = given.message.message_id
            return sum(seen.message_id == wanted for seen in self.server.mails)
        wanted = given.message.request.email_id
        return sum(seen.email_id == wanted for seen in self.server.mails)

    def misbehave(self, how: str) -> None:
        server = self.server
        if how == "slow":
            self.fleet = transports(timeout_s=1.0)
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


@pytest.fixture(params=CARRIERS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        kind = str(request.param)
        server: Api | Receiver
        if kind == "smtp":
            server = await stack.enter_async_context(smtp_receiver())
        else:
            server = await stack.enter_async_context(api_server(kind))
        made = World(kind, server)
        stack.push_async_callback(made.fleet.close)
        yield made


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_sent_email_has_provider_message_id_and_correlation(world: World) -> None:
    given = mail(content=FULL, reply_to=("a@shop.example", "b@shop.example"))
    answer = await world.send(given)
    assert (answer.outcome, answer.health) == (SendOutcome.TAKEN, EndpointHealth.HEALTHY)
    assert answer.provider_message_id
    assert world.arrived(given) == 1


async def test_only_recipient_gets_email_whatever_headers_name(world: World) -> None:
    shown = HeaderRecipients(to=(Mailbox(address="bert@example.com"),), cc=(Mailbox(address="anna@example.com"),))
    await world.send(mail("anna@example.com", shown=shown))
    if isinstance(world.server, Receiver):
        assert [seen.recipient for seen in world.server.mails] == ["anna@example.com"]
    else:
        [seen] = world.server.mails
        [recipient] = seen.recipients
        assert "anna@example.com" in recipient


async def test_non_ascii_recipient_is_sent_or_refused_by_provider_support(world: World) -> None:
    given, plain = mail("二ノ宮@黒川.日本"), mail()
    answers = [await world.send(one) for one in (given, plain)]
    takes = world.kind in ("smtp", "mailgun")
    expected = SendOutcome.TAKEN if takes else SendOutcome.REFUSED
    assert [answer.outcome for answer in answers] == [expected, SendOutcome.TAKEN]
    assert [world.arrived(one) for one in (given, plain)] == [int(takes), 1]
    assert takes or ("SMTPUTF8" in answers[0].text and answers[0].health is EndpointHealth.SILENT)


@pytest.mark.parametrize(
    "values",
    [
        {"reply_to": ("jürgen@shop.example",)},
        {"shown": HeaderRecipients(to=(Mailbox(address="anna@example.com"), Mailbox(address="jürgen@example.com")))},
    ],
)
async def test_non_ascii_address_in_headers_counts_if_it_is_written(world: World, values: dict[str, Any]) -> None:
    answer = await world.send(mail(**values))
    names_all = world.kind in ("smtp", "mailgun", "ses") or "reply_to" in values
    refused = names_all and world.kind not in ("smtp", "mailgun")
    assert answer.outcome is (SendOutcome.REFUSED if refused else SendOutcome.TAKEN)


async def test_server_without_smtputf8_gets_no_non_ascii_address() -> None:
    async with smtp_receiver(enable_SMTPUTF8=False) as receiver:
        world = World("smtp", receiver)
        answers = [await world.send(one) for one in (mail("jürgen@example.com"), mail())]
        await world.fleet.close()
    assert [answer.outcome for answer in answers] == [SendOutcome.REFUSED, SendOutcome.TAKEN]
    assert (answers[0].code, answers[0].health, "SMTPUTF8" in answers[0].text) == (553, EndpointHealth.HEALTHY, True)
    assert [seen.recipient for seen in receiver.mails] == ["anna@example.com"]
    assert receiver.connections == 1, "the connection is as good as before"


async def test_lost_lease_sends_nothing(world: World) -> None:
    def lost() -> None:
        raise LeaseLost

    given = mail(commit=lost)
    with pytest.raises(LeaseLost):
        await world.send(given)
    assert world.arrived(given) == 0


async def test_commit_is_called_before_message_is_sent(world: World) -> None:
    asked: list[int] = []
    given = mail(commit=lambda: asked.append(world.arrived(given)))
    await world.send(given)
    assert asked[-1] == 0
    assert world.arrived(given) == 1


async def test_closed_port_is_retried_later(world: World, closed_port: int) -> None:
    gone = dataclasses.replace(world.provider, port=closed_port, api_url=f"http://127.0.0.1:{closed_port}")
    answer = await world.fleet.send(gone, mail())
    assert (answer.outcome, answer.health, answer.code) == (SendOutcome.LATER, EndpointHealth.FAILING, 0)


async def test_no_reply_after_message_has_unknown_outcome(world: World) -> None:
    world.misbehave("slow")
    answer = await world.send(mail())
    assert (answer.outcome, answer.health, answer.code) == (SendOutcome.UNKNOWN, EndpointHealth.FAILING, 0)


async def test_connection_lost_after_message_has_unknown_outcome(world: World) -> None:
    world.misbehave("hang up")
    answer = await world.send(mail())
    assert (answer.outcome, answer.health) == (SendOutcome.UNKNOWN, EndpointHealth.FAILING)


async def test_refused_credential_breaks_lane_without_bounce(world: World) -> None:
    world.misbehave("refuse us")
    given = mail()
    answer = await world.send(given)
    assert (answer.outcome, answer.health) == (SendOutcome.MISCONFIGURED, EndpointHealth.BROKEN)
    assert world.arrived(given) == 0


async def test_concurrent_emails_arrive_once_within_connection_limit(world: World) -> None:
    given = [mail(f"user{number}@example.com") for number in range(60)]
    answers = await asyncio.gather(*map(world.send, given))
    assert {answer.outcome for answer in answers} == {SendOutcome.TAKEN}
    assert [world.arrived(one) for one in given] == [1] * 60
    assert len({answer.provider_message_id for answer in answers}) == (1 if world.kind == "smtp" else 60)
    if isinstance(world.server, Api):
        assert world.server.busiest <= 4
    else:
        assert world.server.open_most <= 4


async def test_incomplete_provider_is_misconfigured(world: World) -> None:
    lacking = dataclasses.replace(world.provider, password="", host="")
    answer = await world.fleet.send(lacking, mail())
    assert (answer.outcome, answer.health) == (SendOutcome.MISCONFIGURED, EndpointHealth.BROKEN)
    assert "needs" in answer.text
