"""A real broker with a listener per way to secure one, and an authorizer that denies what no ACL allows."""

import base64
import contextlib
import hashlib
import os
import secrets
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiokafka.protocol.admin import CreateAclsRequest
from pydantic import SecretStr

from pipeline.devstack.servers import jars, kafka
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.devstack.servers.process import Program, spawn
from pipeline.operations.granted_kafka_rights import OPERATION_CODES
from pipeline.operations.kafka_rights import KafkaRight, RightsHolder
from pipeline.runtime.kafka.clients import create_admin, start_client
from pipeline.settings import Settings
from tests.support.certificates import TestAuthority, write

PASSWORD: Final = 'a "quoted" p\'ssword, with = ; \\ and ünïcode €'
"""What breaks careless quoting, in the broker's file as in ours."""
SUPER_USER: Final = "tester"
LISTENERS: Final = {
    "INTERNAL": "PLAINTEXT",
    "LOGIN": "SASL_SSL",
    "TOKEN": "SASL_SSL",
    "MTLS": "SSL",
    "CLEAR": "SASL_PLAINTEXT",
    "ASTRAY": "SSL",
}
"""Security protocols by the listeners' names. ASTRAY tells clients to connect to `localhost`, which its certificate
does not name."""

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={advertised}
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=INTERNAL
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:tester;User:CN=tester
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.mtls.ssl.client.auth=required
listener.name.login.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.login.plain.sasl.jaas.config={plain}
listener.name.login.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.login.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.clear.sasl.enabled.mechanisms=PLAIN
listener.name.clear.plain.sasl.jaas.config={plain}
listener.name.token.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.token.oauthbearer.sasl.jaas.config={bearer}
listener.name.token.connections.max.reauth.ms=2000
"""


@dataclass(frozen=True)
class SecuredKafka:
    """A running broker, its ports by listener, and the CA that signed its certificate."""

    folder: Path
    ports: dict[str, int]
    authority: TestAuthority

    @property
    def ca_file(self) -> str:
        return str(self.folder / "ca.pem")

    def address(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def settings(self, own: Settings, listener: str, **values: Any) -> Settings:
        """Return settings of a client of this listener, which trusts the broker's CA."""
        protocol = LISTENERS[listener]
        encrypted = {"kafka_ssl_ca_file": self.ca_file} if protocol.endswith("SSL") else {}
        fields = {"kafka_bootstrap": self.address(listener), "kafka_security_protocol": protocol, **encrypted, **values}
        return own.model_copy(update=fields)

    def login(self, own: Settings, user: str = SUPER_USER, mechanism: str = "PLAIN", **values: Any) -> Settings:
        """Return settings of a client that logs in with its password over TLS."""
        login = {
            "kafka_sasl_mechanism": mechanism,
            "kafka_sasl_username": user,
            "kafka_sasl_password": SecretStr(PASSWORD),
        }
        return self.settings(own, "LOGIN", **login | values)

    def certificate(self, name: str, **options: Any) -> dict[str, str]:
        """Return the settings of a new client certificate."""
        certificate, key = self.authority.issue(name, **options)
        return {
            "kafka_ssl_certificate_file": write(self.folder, f"{name}.pem", certificate),
            "kafka_ssl_key_file": write(self.folder, f"{name}.key", key),
        }


@contextlib.contextmanager
def secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    """Run the broker until the end of the block."""
    folder.mkdir(mode=0o700)
    authority = TestAuthority("the broker's CA")
    write(folder, "ca.pem", authority.pem)
    write(folder, "broker.pem", *reversed(authority.issue("broker", "127.0.0.1")))
    ports = {listener: find_free_port() for listener in LISTENERS}
    properties = folder / "server.properties"
    properties.write_text(_properties(folder, ports), encoding="ascii")
    command = (kafka._java(), *kafka._JVM_OPTIONS, "-cp", jars.fetch_classpath())
    _format(command, properties)
    child = spawn(Program("kafka", (*command, "kafka.Kafka", str(properties)), folder / "kafka.log", {}))
    try:
        deadline = time.monotonic() + 60
        while not all(kafka.is_ready(port) for port in ports.values()):
            assert child.is_running(), child.tail()
            assert time.monotonic() < deadline, child.tail()
            time.sleep(0.1)
        yield SecuredKafka(folder, ports, authority)
    finally:
        child.stop()


def _properties(folder: Path, ports: dict[str, int]) -> str:
    hosts = {listener: "localhost" if listener == "ASTRAY" else "127.0.0.1" for listener in ports}
    users = "".join(f" user_{user}={_quoted(PASSWORD)}" for user in (SUPER_USER, *RightsHolder))
    plain = f"org.apache.kafka.common.security.plain.PlainLoginModule required{users};"
    bearer = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
    return _PROPERTIES.format(
        controller=find_free_port(),
        listeners=",".join(f"{listener}://127.0.0.1:{port}" for listener, port in ports.items()),
        advertised=",".join(f"{listener}://{hosts[listener]}:{port}" for listener, port in ports.items()),
        protocols=",".join(f"{listener}:{protocol}" for listener, protocol in LISTENERS.items()),
        data=folder / "data",
        keystore=folder / "broker.pem",
        truststore=folder / "ca.pem",
        plain=_escaped(plain),
        bearer=bearer,
    )


def _quoted(value: str) -> str:
    """Return a value as a JAAS configuration quotes it."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(value: str) -> str:
    """Return a value as a Java properties file writes it."""
    return value.replace("\\", "\\\\").encode("ascii", "backslashreplace").decode().replace("\\x", "\\u00")


def _format(command: tuple[str, ...], properties: Path) -> None:
    """Format the storage with SCRAM users, whose passwords are salted here, so that they may hold anything."""
    users = [f"--add-scram={_scram_user(mechanism)}" for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")]
    cluster = kafka.cluster_id(uuid.uuid4().bytes)
    tool = [*command, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties), *users]
    done = subprocess.run(tool, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr or done.stdout


def _scram_user(mechanism: str) -> str:
    salt, iterations = secrets.token_bytes(16), 4096
    digest = mechanism.removeprefix("SCRAM-").replace("-", "").lower()
    salted = hashlib.pbkdf2_hmac(digest, PASSWORD.encode(), salt, iterations)
    encoded = {name: base64.b64encode(value).decode() for name, value in (("salt", salt), ("saltedpassword", salted))}
    fields = f'salt="{encoded["salt"]}",saltedpassword="{encoded["saltedpassword"]}"'
    return f"{mechanism}=[name={SUPER_USER},iterations={iterations},{fields}]"


_KINDS: Final = {"topic": 2, "group": 3, "cluster": 4, "transactional-id": 5}


async def grant(settings: Settings, user: str, rights: list[KafkaRight]) -> None:
    """Create an ACL for each right; ``settings`` are a super user's."""
    admin = create_admin(settings)
    await start_client(admin, settings)
    try:
        for right in rights:
            name = "kafka-cluster" if right.kind == "cluster" else settings.topic_prefix + right.name
            pattern = 4 if right.is_prefix else 3
            request = CreateAclsRequest(
                _KINDS[right.kind], name, pattern, f"User:{user}", "*", OPERATION_CODES[right.operation], 3
            )
            response = await admin._send_to_controller(request)
            assert [code for code, _ in response.creation_responses] == [0], response
    finally:
        await admin.close()
