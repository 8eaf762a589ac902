"""Inbound mail over real SMTP: it is on the log before its 250, nothing is relayed, and connections are limited."""

import asyncio
import ssl
from pathlib import Path

import aiosmtplib
import pytest
from pydantic import SecretStr

from pipeline.content import tokens
from pipeline.gateway.smtp.envelope import MESSAGE_KEPT_BYTES
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.support.inbound import DOMAIN, EMAIL_ID, Inbound, bounce, forged, inbound, message_id, unsubscribe, verp
from tests.support.kafka_proxy import kafka_proxy
from tests.support.smtp_receiver import certificate


async def test_bounce_is_on_the_log_unchanged_before_it_is_answered(settings: Settings) -> None:
    async with inbound(settings) as world:
        message = bounce(verp()).replace(b"no such user here\r\n", b"no such user here\r\n .\r\n..dots\r\n")
        assert (await world.send(verp(), message)).code == 250
        await world.send(unsubscribe().upper(), b"Subject: unsubscribe\r\n\r\n", "jose@example.net")
        bounced, unsubscribed = sorted(await world.kept(), key=lambda record: record.received_at)
        assert (bounced.kind, bounced.provider, bounced.body) == ("mail", "inbound", message)
        assert dict(bounced.headers) == {"x-envelope-to": verp(), "x-envelope-from": "<>"}
        assert dict(unsubscribed.headers)["x-envelope-to"].lower() == unsubscribe()
        metric = 'mailfold_inbound_mails_total{result="signed",road="smtp"}'
        assert await world.gateway.metric(metric) == 2


async def test_other_addresses_are_refused_and_nothing_is_relayed(settings: Settings) -> None:
    local = verp().partition("@")[0]
    other_addresses = (
        "anna@example.net",
        f"{local}@example.net",
        f"{local}@{DOMAIN}.example.net",
        f"anna%example.net@{DOMAIN}",
        f'"anna@example.net"@{DOMAIN}',
        f"{local}%example.net@{DOMAIN}",
        f"x{local}@{DOMAIN}",
        f"{local[:-1]}@{DOMAIN}",
        f"root@{DOMAIN}",
        local,
        forged(verp()),
        forged(unsubscribe()),
        "anna@[127.0.0.1]",
    )
    async with inbound(settings) as world, world.client() as client:
        await client.ehlo()
        assert not client.supports_extension("auth")
        await client.mail("spammer@example.org")
        for address in other_addresses:
            with pytest.raises(aiosmtplib.SMTPRecipientRefused) as refused:
                await client.rcpt(address)
            assert refused.value.code in (550, 553), address
        for route in (f"RCPT TO:<@example.net:{verp()}>", f"RCPT TO:<@{DOMAIN}:anna@example.net>"):
            assert (await client.execute_command(route.encode())).code in (250, 550, 553)
        await client.rset()
        await client.mail("spammer@example.org")
        with pytest.raises(aiosmtplib.SMTPDataError):
            await client.data(b"Subject: hello\r\n\r\n")
        assert await world.kept() == []


async def test_mail_to_role_addresses_is_accepted(settings: Settings) -> None:
    async with inbound(settings) as world:
        complaint = f"Subject: complaint\r\n\r\nMessage-ID: {message_id()}\r\n".encode()
        for role in ("postmaster", "Abuse", "fbl"):
            assert (await world.send(f"{role}@{DOMAIN.upper()}", complaint)).code == 250
        assert await world.gateway.metric('mailfold_inbound_mails_total{result="unsigned",road="smtp"}') == 3


async def test_role_mail_without_a_tag_of_ours_is_not_appended(settings: Settings) -> None:
    async with inbound(settings) as world:
        for message in (b"Subject: hello\r\n\r\n", f"Message-ID: {forged(message_id())}\r\n\r\n".encode()):
            with pytest.raises(aiosmtplib.SMTPDataError) as refused:
                await world.send(f"postmaster@{DOMAIN}", message)
            assert refused.value.code == 550
        assert await world.gateway.metric('mailfold_inbound_mails_total{result="refused",road="smtp"}') == 2
        assert await world.kept() == []


async def test_return_paths_of_the_previous_secret_are_accepted(settings: Settings) -> None:
    previous = "the-secret-before-of-at-least-32-characters"
    address = tokens.verp_address(Signer(SecretRing.of(previous), "verp"), EMAIL_ID, DOMAIN)
    async with inbound(settings, secret_previous=SecretStr(previous)) as world:
        assert (await world.send(address, bounce(address))).code == 250
    async with inbound(settings) as world:
        with pytest.raises(aiosmtplib.SMTPRecipientRefused) as refused:
            await world.send(address, bounce(address))
        assert refused.value.code == 550


async def test_second_recipient_of_a_message_is_refused(settings: Settings) -> None:
    async with inbound(settings) as world, world.client() as client:
        await client.ehlo()
        await client.mail("")
        await client.rcpt(verp())
        with pytest.raises(aiosmtplib.SMTPRecipientRefused) as refused:
            await client.rcpt(f"postmaster@{DOMAIN}")
        assert refused.value.code == 452


async def test_message_is_answered_451_while_kafka_is_unavailable(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        inbound(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as world,
    ):
        proxy.away()
        with pytest.raises(aiosmtplib.SMTPDataError) as refused:
            await world.send(verp(), bounce(verp()))
        assert refused.value.code == 451
        proxy.back()


async def test_long_message_is_cut_off_and_one_over_the_limit_refused(settings: Settings) -> None:
    async with inbound(settings, inbound_max_bytes=1_500_000) as world:
        message = bounce(verp(), padding=1_200_000)
        assert (await world.send(verp(), message)).code == 250
        (record,) = await world.kept()
        assert record.body == message[:MESSAGE_KEPT_BYTES]
        assert dict(record.headers)["x-truncated"] == str(len(message))
        # Refused at MAIL if the client declares the size, and after DATA if it does not.
        async with world.client() as client:
            await client.ehlo()
            with pytest.raises(aiosmtplib.SMTPSenderRefused) as sender_refused:
                await client.mail("", options=["SIZE=1500001"])
            assert sender_refused.value.code == 552
        with pytest.raises(aiosmtplib.SMTPDataError) as refused:
            await world.send(verp(), bounce(verp(), padding=1_600_000))
        assert refused.value.code == 552
        assert len(await world.kept()) == 1


async def test_second_message_cannot_be_smuggled_past_other_line_ends(settings: Settings) -> None:
    async with inbound(settings) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        second = f"MAIL FROM:<>\r\nRCPT TO:<{verp()}>\r\nDATA\r\n" + "x" * 50
        smuggled = "Subject: one\r\n\r\n" + "".join(
            f"{dot}{second}" for dot in ("\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.\n", "x" * 5_000 + "\n.\r\n")
        )
        commands = f"EHLO there\r\nMAIL FROM:<>\r\nRCPT TO:<{verp()}>\r\nDATA\r\n{smuggled}\r\n.\r\nQUIT\r\n"
        writer.write(commands.encode())
        async with asyncio.timeout(20):
            replies = (await reader.read()).decode()
        writer.close()
        assert replies.count("354 ") == 1
        (record,) = await world.kept()
        assert record.body.decode() == smuggled.replace("\r\n.", "\r\n") + "\r\n"


async def test_starttls_is_offered_if_a_certificate_is_set(settings: Settings, tmp_path: Path) -> None:
    _, trusted = certificate(tmp_path)
    files = {"inbound_certificate": str(tmp_path / "cert.pem"), "inbound_certificate_key": str(tmp_path / "key.pem")}
    async with inbound(settings, **files) as world, world.client() as client:
        await client.starttls(tls_context=ssl.create_default_context(cafile=str(trusted)))
        await client.ehlo()
        assert not client.supports_extension("auth")
        await client.mail("")
        await client.rcpt(verp())
        assert (await client.data(bounce(verp()))).code == 250
    async with inbound(settings) as world, world.client() as client:
        await client.ehlo()
        assert not client.supports_extension("starttls")


async def test_message_in_transfer_is_finished_when_the_gateway_stops(settings: Settings) -> None:
    async with inbound(settings) as world, world.client() as idle:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(f"EHLO there\r\nMAIL FROM:<>\r\nRCPT TO:<{verp()}>\r\nDATA\r\n".encode())
        async with asyncio.timeout(20):
            await reader.readuntil(b"354 End data with <CR><LF>.<CR><LF>\r\n")
            world.gateway.rt.stop.set()
            while idle.is_connected:
                await asyncio.sleep(0.02)
            writer.write(bounce(verp()) + b".\r\n")
            assert await reader.read() == b"250 2.0.0 Kept\r\n"
        writer.close()


async def test_connections_and_message_rate_are_limited(settings: Settings) -> None:
    async with inbound(settings, inbound_connections=2, inbound_rate=1.0) as world:
        async with world.client() as first, world.client():
            with pytest.raises(aiosmtplib.SMTPException):
                async with world.client():
                    pass
            await first.ehlo()
            steps = (b"MAIL FROM:<>", b"RSET", b"MAIL FROM:<>")
            assert [(await first.execute_command(step)).code for step in steps] == [250, 250, 450]
        await _connect_when_free(world)
        assert await world.gateway.metric('mailfold_inbound_mails_total{result="turned_away",road="smtp"}') >= 1


async def _connect_when_free(world: Inbound) -> None:
    """Wait until a connection is admitted again, after others have ended."""
    async with asyncio.timeout(10):
        while True:
            try:
                async with world.client() as client:
                    assert (await client.ehlo()).code == 250
                    return
            except aiosmtplib.SMTPException:
                await asyncio.sleep(0.05)
