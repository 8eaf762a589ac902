"""Inbound mail by HTTP and from a maildir: its record is the same as by SMTP, and repeats have the same id."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.content import tokens
from pipeline.errors import InvalidSettings
from pipeline.gateway.smtp.envelope import MESSAGE_KEPT_BYTES
from pipeline.gateway.smtp.maildir import Maildir, MaildirSweep
from pipeline.runtime.bootstrap import wall_clock
from pipeline.runtime.kafka.log import open_kafka_log
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from pipeline.webhooks.providers import bounce_mail
from pipeline.webhooks.token_readers import token_readers
from tests.conftest import RING
from tests.support.command import mailfold_on
from tests.support.gateway import gateway
from tests.support.inbound import DOMAIN, EMAIL_ID, bounce, forged, message_id, unsubscribe, verp
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import records
from topics.registry import PROVIDER_WEBHOOKS

MESSAGE = bounce(verp())
FORGED = bounce(forged(verp()))
PREVIOUS = "the-secret-before-of-at-least-32-characters"


async def test_http_mail_is_on_the_log_with_its_envelope(settings: Settings) -> None:
    async with gateway(settings, inbound_max_bytes=1_000_000) as world:
        key = {"X-Api-Key": world.key, "Content-Type": "message/rfc822"}
        by_query = {"to": verp(), "from": "<>"}
        answer = await world.http.post("/inbound/mail", content=MESSAGE, headers=key, params=by_query)
        assert answer.status_code == 204
        by_header = {"X-Envelope-To": verp(), "X-Envelope-From": "<>", **key}
        assert (await world.http.post("/inbound/mail", content=MESSAGE, headers=by_header)).status_code == 204
        assert (await world.http.post("/inbound/mail", content=MESSAGE, headers=key)).status_code == 204
        # The topic has two partitions, so the records come in no particular order.
        mails = [record for *_, record in await records(settings, PROVIDER_WEBHOOKS)]
        without_envelope, first, repeated = sorted(mails, key=lambda mail: mail.headers)
        assert (first.kind, first.body) == ("mail", MESSAGE)
        assert first.headers == repeated.headers
        assert first.webhook_id == repeated.webhook_id
        assert without_envelope.headers == ()
        pieces = {bounce_mail.split(mail.body, dict(mail.headers))[0] for mail in mails}
        assert len(pieces) == 1
        assert await world.metric('mailfold_inbound_mails_total{result="signed",road="http"}') == 2


async def test_http_mail_without_key_or_message_or_over_a_limit_is_refused(settings: Settings) -> None:
    async with gateway(settings, inbound_max_bytes=1_000_000) as world:
        key = {"X-Api-Key": world.key}
        answers = [
            await world.http.post("/inbound/mail", content=MESSAGE),
            await world.http.post("/inbound/mail", content=MESSAGE, headers={"X-Api-Key": "wrong"}),
            await world.http.post("/inbound/mail", content=b" \r\n", headers=key),
            await world.http.post("/inbound/mail", content=b"x" * 1_000_001, headers=key),
            await world.http.post("/inbound/mail", content=MESSAGE, headers=key, params={"to": "x" * 400}),
        ]
        assert [answer.status_code for answer in answers] == [401, 401, 400, 413, 400]
        assert await records(settings, PROVIDER_WEBHOOKS) == []


async def test_http_mail_is_answered_503_while_kafka_is_unavailable(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as world,
    ):
        proxy.away()
        answer = await world.http.post("/inbound/mail", content=MESSAGE, headers={"X-Api-Key": world.key})
        assert answer.status_code == 503
        proxy.back()


async def test_command_moves_a_maildir_to_the_log(settings: Settings, tmp_path: Path) -> None:
    folder = maildir(
        tmp_path,
        {"1.a.host": MESSAGE, "2.b.host,S=5:2,": f"To: {verp()}\n\n".encode() + b"x" * (MESSAGE_KEPT_BYTES + 5)},
    )
    said = await mailfold_on(settings, "inbound", "maildir", str(folder))
    assert (said.code, said.out) == (0, "2 taken\n"), said.err
    assert sorted(path.name for path in (folder / "cur").iterdir()) == ["1.a.host:2,S", "2.b.host,S=5:2,S"]
    assert list((folder / "new").iterdir()) == []
    first, second = [record for *_, record in await records(settings, PROVIDER_WEBHOOKS)]
    assert MESSAGE in (first.body, second.body)
    assert {len(first.body), len(second.body)} == {len(MESSAGE), MESSAGE_KEPT_BYTES}


async def test_unconfirmed_maildir_messages_stay_and_are_repeated_with_the_same_id(
    settings: Settings, tmp_path: Path
) -> None:
    folder = maildir(tmp_path, {"1": MESSAGE, "2": f"To: {unsubscribe()}\n\n".encode()})
    async with kafka_proxy(settings.kafka_bootstrap) as proxy:
        proxied = settings.model_copy(update={"kafka_bootstrap": proxy.bootstrap, "append_timeout": 0.5})
        async with open_kafka_log(proxied) as log:
            proxy.away()
            assert await Maildir(folder, log, wall_clock).sweep() == MaildirSweep(0, 2)
            assert len(list((folder / "new").iterdir())) == 2
            proxy.back()
    async with open_kafka_log(settings) as log:
        assert await Maildir(folder, log, wall_clock, token_readers(RING)).sweep() == MaildirSweep(2, 0)
        # The state that a crash between the append and the renaming leaves.
        (folder / "cur" / "1:2,S").rename(folder / "new" / "1")
        assert await Maildir(folder, log, wall_clock).sweep() == MaildirSweep(1, 0)
    repeats = [record for *_, record in await records(settings, PROVIDER_WEBHOOKS) if record.body == MESSAGE]
    assert len(repeats) >= 2
    assert len({record.webhook_id for record in repeats}) == 1


async def test_maildir_messages_without_a_tag_of_ours_are_moved_and_not_appended(
    settings: Settings, tmp_path: Path
) -> None:
    folder = maildir(tmp_path, {"1": MESSAGE, "2": b"Subject: hello\n\n", "3": FORGED})
    said = await mailfold_on(settings, "inbound", "maildir", str(folder))
    assert (said.code, said.out) == (0, "1 taken, 2 not about our mail put aside\n"), said.err
    assert sorted(path.name for path in (folder / "cur").iterdir()) == ["1:2,S", "2:2,S", "3:2,S"]
    assert [record.body for *_, record in await records(settings, PROVIDER_WEBHOOKS)] == [MESSAGE]


async def test_http_mail_without_a_tag_of_ours_is_discarded_and_counted(settings: Settings) -> None:
    async with gateway(settings, secret_previous=SecretStr(PREVIOUS)) as world:
        key = {"X-Api-Key": world.key}
        old = tokens.verp_address(Signer(SecretRing.of(PREVIOUS), "verp"), EMAIL_ID, DOMAIN)
        for message, to in (
            (FORGED, ""),
            (FORGED, forged(verp())),
            (b"Subject: hello\r\n\r\n", f"postmaster@{DOMAIN}"),
            (b"Subject: hello\r\n\r\n", old),
            (f"References: {message_id()}\r\n\r\n".encode(), f"postmaster@{DOMAIN}"),
        ):
            answer = await world.http.post("/inbound/mail", content=message, headers=key, params={"to": to})
            assert answer.status_code == 204
        assert await world.metric('mailfold_inbound_mails_total{result="refused",road="http"}') == 3
        assert await world.metric('mailfold_inbound_mails_total{result="signed",road="http"}') == 1
        assert await world.metric('mailfold_inbound_mails_total{result="unsigned",road="http"}') == 1
        assert len(await records(settings, PROVIDER_WEBHOOKS)) == 2


async def test_links_folders_and_pipes_in_a_maildir_are_ignored(settings: Settings, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not for the log")
    folder = maildir(tmp_path, {"1": MESSAGE, ".hidden": b"x"})
    (folder / "new" / "link").symlink_to(secret)
    (folder / "new" / "folder").mkdir()
    os.mkfifo(folder / "new" / "pipe")
    async with open_kafka_log(settings) as log:
        assert await Maildir(folder, log, wall_clock).sweep() == MaildirSweep(1, 0)
        with pytest.raises(InvalidSettings, match="not a maildir"):
            Maildir(tmp_path, log, wall_clock)
    assert [record.body for *_, record in await records(settings, PROVIDER_WEBHOOKS)] == [MESSAGE]


def maildir(folder: Path, messages: dict[str, bytes]) -> Path:
    """Create a maildir with these messages, by file name, and return its path."""
    for name in ("cur", "new", "tmp"):
        (folder / "Maildir" / name).mkdir(parents=True)
    for name, message in messages.items():
        (folder / "Maildir" / "new" / name).write_bytes(message)
    return folder / "Maildir"
