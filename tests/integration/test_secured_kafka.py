"""A real broker that wants TLS, logins and rights: what works, and what is said where something is wrong."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from pydantic import SecretStr

from pipeline import admin
from pipeline.admin import Brand, Destination, Provider
from pipeline.content import tokens
from pipeline.dispatch import main as dispatch
from pipeline.emit import main as emit
from pipeline.errors import LogUnavailable, TopicMismatch
from pipeline.operations.doctor.kafka import check_kafka
from pipeline.operations.doctor.rights import check_rights
from pipeline.operations.granted_kafka_rights import find_missing_rights
from pipeline.operations.kafka_rights import READ_TOPICS, WRITTEN_TOPICS, KafkaRight, RightsHolder, rights_of
from pipeline.operations.lag import read_lag
from pipeline.project import main as project
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.kafka import topic_admin
from pipeline.runtime.kafka.clients import create_consumer, create_producer, start_client
from pipeline.runtime.kafka.log import append_all, discover_partitions, open_kafka_log
from pipeline.runtime.observing.role_health import find_server_problems
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.conftest import RING, SECRET
from tests.support.certificates import TestAuthority, write
from tests.support.fasttrack import message
from tests.support.gateway import gateway
from tests.support.http_receiver import http_receiver
from tests.support.secured_kafka import PASSWORD, SecuredKafka, grant, secured_kafka
from tests.support.seeing import on, until
from tests.support.smtp_receiver import smtp_receiver
from tests.support.token_server import TokenServer, token_server
from tests.support.worker import Worker, assert_folded, feed, lives
from tests.support.working import working
from topics.registry import CONVERSION_RESULTS, MESSAGE_CONTENTS, SEND_REQUESTS, TOPICS, Topic

WAYS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "certificate", "login without TLS")
WORKER_WAYS = ("SCRAM-SHA-512", *(pytest.param(way, marks=pytest.mark.ci) for way in WAYS if way != "SCRAM-SHA-512"))
"""Each worker takes some seconds; one of them is always tried."""
PERSON = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.3.0"}


@pytest.fixture(scope="module")
def broker(server_folder: Path) -> Iterator[SecuredKafka]:
    with secured_kafka(server_folder / "secured-kafka") as started:
        yield started


@pytest.fixture
def own(broker: SecuredKafka, tmp_path: Path) -> Settings:
    """Settings of a super user, who connects without security, with topics of this test's own."""
    prefix = f"t{uuid.uuid4().hex[:12]}-"
    return Settings(
        kafka_bootstrap=broker.address("INTERNAL"),
        secret=SecretStr(SECRET),
        data_dir=tmp_path,
        topic_prefix=prefix,
        partitions=2,
        allow_private_destinations=True,
    )


def secured(way: str, broker: SecuredKafka, own: Settings, tokens_of: TokenServer) -> Settings:
    """Return the settings with which a client connects in one of the ``WAYS``."""
    if way == "OAUTHBEARER":
        return broker.settings(own, "TOKEN", **tokens_of.settings())
    if way == "certificate":
        return broker.settings(own, "MTLS", **broker.certificate("tester"))
    login = broker.login(own, mechanism="PLAIN" if way == "login without TLS" else way)
    if way == "login without TLS":
        return login.model_copy(
            update={
                "kafka_bootstrap": broker.address("CLEAR"),
                "kafka_security_protocol": "SASL_PLAINTEXT",
                "kafka_ssl_ca_file": "",
            }
        )
    return login


async def first_value(settings: Settings, topic: Topic, timeout_s: float = 20.0) -> bytes | None:
    """Return the first record's value that a consumer reads; None where it reads none in time."""
    reader = create_consumer(settings, fetch_max_wait_ms=100)
    await start_client(reader, settings)
    try:
        partitions = await discover_partitions(reader, settings.topic(topic.name), timeout_s=timeout_s)
        reader.assign(partitions)
        await reader.seek_to_beginning(*partitions)
        async with asyncio.timeout(timeout_s):
            return (await reader.getone()).value  # type: ignore[no-any-return,unused-ignore]
    except (LogUnavailable, TopicAuthorizationFailedError, TimeoutError):
        return None
    finally:
        await reader.stop()


@pytest.mark.parametrize("way", WAYS)
async def test_log_consumer_and_admin_work_in_each_way(way: str, broker: SecuredKafka, own: Settings) -> None:
    async with token_server() as server:
        settings = secured(way, broker, own, server)
        assert len(await topic_admin.create(settings)) == len(TOPICS)
        async with open_kafka_log(settings) as log:
            await append_all(log, lives(5, seed=1))
        assert await first_value(settings, SEND_REQUESTS) is not None
        assert len(server.forms) == (way == "OAUTHBEARER")


@pytest.mark.parametrize("way", WORKER_WAYS)
async def test_worker_folds_over_secured_connections(
    way: str, broker: SecuredKafka, own: Settings, tmp_path: Path
) -> None:
    async with token_server() as server:
        settings = secured(way, broker, own, server)
        await topic_admin.create(settings)
        with Worker(settings, tmp_path / "worker", MAILFOLD_LOG_LEVEL="DEBUG") as worker:
            await feed(settings, lives(50, seed=2), pieces=3)
            await assert_folded(own)
            assert worker.terminate() == 0
        # aiokafka's own DEBUG lines hold the bytes of every request, also of the login.
        log = worker.log.read_text()
        assert "p'ssword" not in log
        assert "SaslAuthenticate" not in log


async def test_appends_go_on_after_the_broker_ended_a_session(broker: SecuredKafka, own: Settings) -> None:
    """The listener closes connections whose token was shown more than two seconds ago."""
    async with token_server() as server:
        settings = broker.settings(own, "TOKEN", **server.settings())
        await topic_admin.create(settings)
        async with open_kafka_log(settings) as log:
            await append_all(log, lives(1, seed=1))
            await asyncio.sleep(3)
            await append_all(log, lives(20, seed=2))


async def refusal(settings: Settings) -> str:
    """Return the one sentence with which a client is refused."""
    with pytest.raises(LogUnavailable) as caught:
        async with open_kafka_log(settings):
            pass
    sentence = str(caught.value)
    assert sentence.startswith(f"Kafka at KAFKA_BOOTSTRAP={settings.kafka_bootstrap}: ")
    assert "\n" not in sentence
    assert PASSWORD not in sentence
    return sentence


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_wrong_password_is_named(mechanism: str, broker: SecuredKafka, own: Settings) -> None:
    wrong = broker.login(own, mechanism=mechanism, kafka_sasl_password=SecretStr("wrong-password"))
    sentence = await refusal(wrong)
    assert f"refused the login by {mechanism}; check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD" in sentence
    assert "wrong-password" not in sentence


async def test_wrong_files_and_listeners_are_named(broker: SecuredKafka, own: Settings, tmp_path: Path) -> None:
    login, mtls = broker.login(own), broker.settings(own, "MTLS")
    other_ca = {"kafka_ssl_ca_file": write(tmp_path, "other.pem", TestAuthority("another CA").pem)}
    stranger = TestAuthority("another CA").issue("tester")
    strange = {
        "kafka_ssl_certificate_file": write(tmp_path, "strange.pem", stranger[0]),
        "kafka_ssl_key_file": write(tmp_path, "strange.key", stranger[1]),
    }
    plain = {"kafka_security_protocol": "PLAINTEXT", "kafka_ssl_ca_file": ""}
    cases: list[tuple[Settings, dict[str, Any], str]] = [
        (
            login,
            other_ca,
            "is not trusted (unable to get local issuer certificate); KAFKA_SSL_CA_FILE must name the CA",
        ),
        (login, {"kafka_ssl_ca_file": ""}, "is not trusted"),
        (login, {"kafka_bootstrap": f"localhost:{broker.ports['LOGIN']}"}, "is for another name"),
        (mtls, {}, "asks for a client certificate, set KAFKA_SSL_CERTIFICATE_FILE and KAFKA_SSL_KEY_FILE"),
        (mtls, strange, "refused the certificate in KAFKA_SSL_CERTIFICATE_FILE"),
        (mtls, plain, "closed the connection; does its listener expect KAFKA_SECURITY_PROTOCOL=PLAINTEXT?"),
        (login, {"kafka_bootstrap": own.kafka_bootstrap}, "does its listener expect KAFKA_SECURITY_PROTOCOL=SASL_SSL?"),
        (login, {"kafka_bootstrap": broker.address("MTLS")} | broker.certificate("tester"), "expects no login"),
        (login, {"kafka_bootstrap": broker.address("TOKEN")}, "does not offer KAFKA_SASL_MECHANISM=PLAIN"),
    ]
    for settings, changed, expected in cases:
        assert expected in await refusal(settings.model_copy(update=changed))


async def test_advertised_name_without_certificate_is_named_instead_of_waiting_for_ever(
    broker: SecuredKafka, own: Settings
) -> None:
    settings = broker.settings(own, "ASTRAY")
    with pytest.raises(LogUnavailable) as caught:
        await start_client(create_producer(settings), settings, timeout_s=2)
    assert f"the certificate of localhost:{broker.ports['ASTRAY']} is for another name" in str(caught.value)


async def test_token_server_that_refuses_is_named(broker: SecuredKafka, own: Settings) -> None:
    async with token_server() as server:
        wrong = server.settings(kafka_oauth_client_secret=SecretStr("wrong-secret"))
        sentence = await refusal(broker.settings(own, "TOKEN", **wrong))
    assert "KAFKA_OAUTH_TOKEN_URL answered 401 (invalid_client)" in sentence
    assert "wrong-secret" not in sentence


async def test_worker_with_a_wrong_password_ends_with_one_sentence(broker: SecuredKafka, own: Settings) -> None:
    wrong = broker.login(own, kafka_sasl_password=SecretStr("wrong-password"))
    with Worker(wrong, own.data_dir / "worker") as worker:
        assert worker.process.wait(40) == 1
    log = worker.log.read_text()
    assert "check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD" in log
    assert "Traceback" not in log
    assert "wrong-password" not in log


async def test_topics_that_may_not_be_seen_point_to_the_rights(broker: SecuredKafka, own: Settings) -> None:
    await topic_admin.create(own)
    with pytest.raises(TopicMismatch, match="or may not be seen: `mailfold topics acls` prints the rights"):
        await topic_admin.check(broker.login(own, RightsHolder.EMIT))


async def with_rights(broker: SecuredKafka, own: Settings) -> dict[RightsHolder, Settings]:
    """Give each role's user its rights on this test's topics and create these; return the users' settings."""
    for holder in RightsHolder:
        await grant(own, holder, rights_of([holder]))
    users = {holder: broker.login(own, holder) for holder in RightsHolder}
    await topic_admin.create(users[RightsHolder.SETUP])
    return users


async def test_doctor_tells_the_rights_that_a_user_lacks_and_the_end_of_certificates(
    broker: SecuredKafka, own: Settings
) -> None:
    users = await with_rights(broker, own)

    async def found(holder: RightsHolder, *roles: RightsHolder) -> list[tuple[str, str]]:
        return [(row.verdict, row.text) async for row in check_rights(users[holder], roles=roles)]

    for holder in RightsHolder:
        assert await found(holder, holder) == [("ok", f"this user has the rights of {holder}")]
    emit_rights = await found(RightsHolder.EMIT)
    assert [verdict for verdict, _ in emit_rights] == ["ok", "warn", "warn", "warn", "warn", "warn"]
    [(verdict, text)] = await found(RightsHolder.EMIT, RightsHolder.PROJECT)
    assert verdict == "fail"
    assert text.startswith("this user lacks rights of project: Read on group project, Read on topic ")
    missing = await find_missing_rights(users[RightsHolder.PROJECT], rights_of([RightsHolder.WORKER]))
    assert KafkaRight("transactional-id", "mailfold-", "Write", is_prefix=True) in missing
    certificates = [
        row.verdict async for row in check_kafka(users[RightsHolder.COMMANDS]) if "the certificate ends on" in row.text
    ]
    assert certificates == ["warn"], "it is valid for a day"


async def test_each_user_writes_and_reads_the_topics_of_its_role_and_no_other(
    broker: SecuredKafka, own: Settings
) -> None:
    users = await with_rights(broker, own.model_copy(update={"append_timeout": 2.0}))
    async with open_kafka_log(own) as log:
        for topic in TOPICS:
            await log.append_raw(topic.name, b"key", b"value")
    for holder, settings in users.items():
        assert await writable_topics(settings) == {topic.name for topic in WRITTEN_TOPICS.get(holder, ())}
        for topic in READ_TOPICS.get(holder, ()):
            assert await first_value(settings, topic) == b"value"
        if MESSAGE_CONTENTS not in READ_TOPICS.get(holder, ()):
            assert await first_value(settings, MESSAGE_CONTENTS, timeout_s=0.5) is None


async def writable_topics(settings: Settings) -> set[str]:
    """Return the names of the topics that a user may write."""
    try:
        async with open_kafka_log(settings) as log:
            appends = [log.append_raw(topic.name, b"key", b"value") for topic in TOPICS]
            results = await asyncio.gather(*appends, return_exceptions=True)
    except LogUnavailable:  # who may write nothing gets no producer
        return set()
    return {topic.name for topic, result in zip(TOPICS, results, strict=True) if result is None}


async def test_roles_with_rights_of_their_own_take_an_email_to_its_conversion(
    broker: SecuredKafka, own: Settings, database_url: str, tmp_path: Path
) -> None:
    own = own.model_copy(update={"database_url": SecretStr(database_url)})
    users = await with_rights(broker, own)
    async with (
        smtp_receiver() as inbox,
        http_receiver() as fasttrack,
        gateway(users[RightsHolder.GATEWAY]) as served,
        working(users[RightsHolder.DISPATCH], dispatch.run) as dispatching,
        working(users[RightsHolder.PROJECT], project.run) as projecting,
        working(users[RightsHolder.EMIT], emit.run) as emitting,
    ):
        await admin.add_provider(served.rt.pool, Provider("local", "127.0.0.1", inbox.port, tls="off"), RING)
        await admin.add_brand(served.rt.pool, Brand("acme", "*", "local"))
        await admin.add_destination(served.rt.pool, Destination("acme", "12", fasttrack.url, "their-key"), RING)
        with Worker(users[RightsHolder.WORKER], tmp_path / "worker"):
            await served.post([message()])
            await until(lambda: inbox.mails, 60)
            [request] = await on(own, SEND_REQUESTS)
            pixel = tokens.pixel_token(Signer(RING, "track"), request.email_id)
            await served.http.get(f"/o/{pixel}.gif", headers=PERSON)
            await until(lambda: [seen.word for seen in fasttrack.seen] == ["open"], 60)
            await until(lambda: on(own, CONVERSION_RESULTS))
        for rt in (served.rt, dispatching, projecting, emitting):
            assert await find_server_problems(rt.log, rt.pool) == {}
    commands = users[RightsHolder.COMMANDS]
    await topic_admin.check(commands)
    assert [found.text async for found in check_kafka(commands) if found.verdict == "fail"] == []
    async with open_runtime(commands, signals=False) as rt:
        assert "worker" in (await read_lag(rt)).next_offsets
