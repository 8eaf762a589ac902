"""Define all settings; `pipeline/runtime/environment.py` loads them from environment variables.

`docs/reference/settings.md` is generated from this file (`mailfold settings`), and a test holds them equal.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(ge=0)]


class Settings(BaseSettings):
    """All settings; the variables begin with ``MAILFOLD_``, except those of databases, Kafka and OpenTelemetry."""

    model_config = SettingsConfigDict(env_prefix="MAILFOLD_", frozen=True, extra="ignore", populate_by_name=True)

    kafka_bootstrap: str = Field(
        "",
        validation_alias="KAFKA_BOOTSTRAP",
        description="Kafka brokers, `host:port,host:port`. Empty: `up` and `demo` start one of their own.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        validation_alias="KAFKA_SECURITY_PROTOCOL",
        description="How Kafka's listener is secured: `PLAINTEXT`, `SSL` (TLS, and a client certificate where one is "
        "set), `SASL_SSL` (TLS and a login) or `SASL_PLAINTEXT` (a login without TLS).",
    )
    kafka_sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "",
        validation_alias="KAFKA_SASL_MECHANISM",
        description="How clients log in to Kafka: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.",
    )
    kafka_sasl_username: str = Field(
        "", validation_alias="KAFKA_SASL_USERNAME", description="User name for `PLAIN` and `SCRAM`."
    )
    kafka_sasl_password: SecretStr = Field(
        SecretStr(""), validation_alias="KAFKA_SASL_PASSWORD", description="Password for `PLAIN` and `SCRAM`."
    )
    kafka_oauth_token_url: str = Field(
        "",
        validation_alias="KAFKA_OAUTH_TOKEN_URL",
        description="URL at which `OAUTHBEARER` gets tokens by client credentials; `https`, or `http` on this machine.",
    )
    kafka_oauth_client_id: str = Field(
        "", validation_alias="KAFKA_OAUTH_CLIENT_ID", description="Client id for `OAUTHBEARER`."
    )
    kafka_oauth_client_secret: SecretStr = Field(
        SecretStr(""), validation_alias="KAFKA_OAUTH_CLIENT_SECRET", description="Client secret for `OAUTHBEARER`."
    )
    kafka_oauth_scope: str = Field(
        "",
        validation_alias="KAFKA_OAUTH_SCOPE",
        description="Scope that is asked for with `OAUTHBEARER`, if the server wants one.",
    )
    kafka_ssl_ca_file: str = Field(
        "",
        validation_alias="KAFKA_SSL_CA_FILE",
        description="PEM file with the CAs that sign Kafka's certificates. Empty: the system's. The host name is "
        "always verified.",
    )
    kafka_ssl_certificate_file: str = Field(
        "",
        validation_alias="KAFKA_SSL_CERTIFICATE_FILE",
        description="PEM file with the client's certificate chain, for Kafka listeners that ask for one. The TLS files "
        "are read again when they change.",
    )
    kafka_ssl_key_file: str = Field(
        "",
        validation_alias="KAFKA_SSL_KEY_FILE",
        description="PEM file with the client's key, if the file with the certificate has none.",
    )
    kafka_ssl_key_password: SecretStr = Field(
        SecretStr(""), validation_alias="KAFKA_SSL_KEY_PASSWORD", description="Password of an encrypted client key."
    )
    kafka_group_instance_id: str = Field(
        "",
        validation_alias="KAFKA_GROUP_INSTANCE_ID",
        description="Name of this process as a static member of its consumer group, such as its StatefulSet pod's; "
        "different for every process of a role. Empty: a dynamic member.",
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        validation_alias="DATABASE_URL",
        description="PostgreSQL ≥ 15, as a libpq URL. Empty: `up` and `demo` start one of their own.",
    )
    database_session_url: SecretStr = Field(
        SecretStr(""),
        validation_alias="DATABASE_SESSION_URL",
        description="The same database without a pooler between, as a libpq URL, for what needs a session of its own. "
        "Set it if `DATABASE_URL` is PgBouncer in transaction mode, and only then. Empty: `DATABASE_URL`.",
    )
    database_read_url: SecretStr = Field(
        SecretStr(""),
        validation_alias="DATABASE_READ_URL",
        description="A standby of the database, as a libpq URL, from which the gateway reads listings of emails. "
        "Empty: `DATABASE_URL`.",
    )
    database_read_max_lag: float = Field(
        30.0,
        ge=0,
        description="Seconds that the standby of `DATABASE_READ_URL` may lag; after that listings are read from "
        "`DATABASE_URL`.",
    )
    database_statement_timeout: float = Field(
        30.0,
        ge=0,
        description="Seconds for one statement in Postgres, migrations and rebuilds excepted; 0 is no limit.",
    )
    database_lock_timeout: float = Field(
        10.0, ge=0, description="Seconds that one statement waits for a lock in Postgres; 0 is no limit."
    )
    data_dir: Path = Field(
        Path(".mailfold"), description="Where the embedded stack and the workers' local stores keep their files."
    )
    secret: SecretStr = Field(
        SecretStr(""),
        description="At least 32 characters; signs tokens, cursors, VERP and Message-IDs and seals stored "
        "credentials. The same for every role. `up` generates one and keeps it in the data folder.",
    )
    secrets: SecretStr = Field(
        SecretStr(""),
        description="Instead of `MAILFOLD_SECRET` and `MAILFOLD_SECRET_PREVIOUS`: up to 8 secrets as `id:secret`, "
        "apart by blanks, commas or line ends. The first signs and seals, all verify and unseal. The entry "
        "`addresses:…` is the secret under which suppressed addresses are hashed, and never changes. The same for "
        "every role.",
    )
    secret_previous: SecretStr = Field(
        SecretStr(""),
        description="The previous secret, for as long as replies and bounces to mail sent with it may arrive: return "
        "paths, unsubscribe addresses and Message-IDs signed with it stay valid. The same for every role.",
    )
    backup_passphrase: SecretStr = Field(
        SecretStr(""),
        description="At least 16 characters, from which `mailfold backup` and `restore` make the key of the file. Keep "
        "it apart from the backups.",
    )
    topic_prefix: str = Field("", description="Put before every topic and consumer group; for sharing a cluster.")
    partitions: int = Field(8, ge=1, le=512, description="Partitions of topics when they are created; never changed.")
    replication_factor: int = Field(
        1, ge=1, le=7, description="Replicas of topics when they are created; all but one must confirm."
    )
    host: str = Field("127.0.0.1", description="Address the gateway listens on.")
    port: int = Field(8025, ge=0, le=65535, description="Port the gateway listens on; 0 takes a free one.")
    console: bool = Field(
        False,
        description="Serve the console, pages for people, below `/console`. `up` and `demo` do, unless this is set.",
    )
    console_host: str = Field("127.0.0.1", description="Address of the console's own port, if it has one.")
    console_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port on which the gateway serves the console and nothing else, and no longer on its own; 0: it "
        "has none.",
    )
    public_url: str = Field(
        "http://127.0.0.1:8025",
        description="URL at which recipients and providers reach the gateway: pixels and links point there, webhooks "
        "are posted there. The same for every gateway, because Mandrill signs it.",
    )
    mail_domain: str = Field(
        "mailfold.localhost", description="Domain of the Message-ID and of the VERP return path; bounces go there."
    )
    append_timeout: float = Field(5.0, gt=0, description="Seconds until an unconfirmed append is answered with 503.")
    batch_max: int = Field(10_000, ge=1, description="Messages accepted of one batch; the others are `fatal`.")
    rate_per_second: float = Field(
        0.0, ge=0, description="Messages per second and tenant, with bursts of one second; 0 is no limit."
    )
    body_max: int = Field(64_000_000, ge=1024, description="Bytes of a request body; more is a 413.")
    body_memory: int = Field(
        256_000_000,
        ge=1_000_000,
        description="Bytes of request bodies that a gateway holds in memory at once, including decompressed ones; a "
        "request that has to wait longer than two seconds gets a 503. Never less than twice the largest body.",
    )
    http_connections: int = Field(
        4096,
        ge=1,
        description="HTTP connections at once, per gateway; if one more comes, the one idle for longest is closed.",
    )
    http_connections_per_address: int = Field(
        512,
        ge=1,
        description="HTTP connections of one address (IPv6: of one /64 network), or concurrent requests of a trusted "
        "proxy for it.",
    )
    http_head_timeout: float = Field(10.0, gt=0, description="Seconds within which a request's headers must arrive.")
    http_body_timeout: float = Field(60.0, gt=0, description="Seconds within which a request's body must arrive.")
    http_idle_timeout: int = Field(30, ge=1, description="Seconds until an idle HTTP connection is closed.")
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description='Networks of proxies before the gateway, JSON list such as `["10.0.0.0/8"]`: `X-Forwarded-For` is '
        "read from these only. The address in it is used for limits, and to recognise opens and clicks from networks "
        "of security scanners.",
    )
    metrics_key: SecretStr = Field(
        SecretStr(""),
        description="Bearer token that `/metrics` requires. Empty: only direct connections from the same machine "
        "may read it, because metrics name tenants and brands.",
    )
    ops_host: str = Field(
        "127.0.0.1",
        description="Address on which every role serves `/metrics`, `/healthz` and `/readyz`, without authentication. "
        "Empty: no role does.",
    )
    ops_port_gateway: int = Field(
        8031, ge=0, le=65535, description="Port of the gateway's metrics and health; 0 takes a free one."
    )
    ops_port_worker: int = Field(
        8032, ge=0, le=65535, description="Port of the worker's metrics and health; 0 takes a free one."
    )
    ops_port_dispatch: int = Field(
        8033, ge=0, le=65535, description="Port of the dispatcher's metrics and health; 0 takes a free one."
    )
    ops_port_project: int = Field(
        8034, ge=0, le=65535, description="Port of the projector's metrics and health; 0 takes a free one."
    )
    ops_port_emit: int = Field(
        8035, ge=0, le=65535, description="Port of the emitter's metrics and health; 0 takes a free one."
    )
    tracing: bool = Field(
        False,
        description="Send traces of emails by OpenTelemetry (OTLP over HTTP); needs the extra `tracing`. The standard "
        "variables `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` and others say where to and how many.",
    )
    trace_queue_spans: int = Field(
        2048,
        ge=1,
        validation_alias="OTEL_BSP_MAX_QUEUE_SIZE",
        description="Ended spans that wait for the collector; further ones are dropped and counted.",
    )
    trace_export_delay_ms: int = Field(
        5000,
        ge=1,
        validation_alias="OTEL_BSP_SCHEDULE_DELAY",
        description="Milliseconds between two exports of spans, unless there are many.",
    )
    webhook_max_age: int = Field(
        86_400,
        ge=60,
        description="Seconds for which a webhook's signature is accepted; longer if its provider repeats for longer.",
    )
    soft_bounces: int = Field(
        5, ge=0, description="Soft bounces in a row after which an address is suppressed for the brand; 0 is never."
    )
    soft_bounce_days: int = Field(30, ge=1, le=400, description="Days after which a soft bounce no longer counts.")
    parked_days: float = Field(
        7,
        gt=0,
        le=30,
        description="Days for which an event waits for the ack that names its email; then it becomes a dead letter.",
    )
    provider_id_days: float = Field(
        30,
        gt=0,
        le=400,
        description="Days for which a provider's message id is stored, to correlate events that name no email.",
    )
    idempotency_days: float = Field(
        400,
        ge=7,
        le=36_500,
        description="Days for which a repeated request is recognised by its identity and not sent again: identities "
        "and finished jobs are deleted then.",
    )
    dead_job_days: float = Field(
        400,
        ge=7,
        le=36_500,
        description="Days for which a dead job can be shown and replayed; then it is deleted, but never before "
        "`MAILFOLD_IDEMPOTENCY_DAYS`.",
    )
    inbound_host: str = Field(
        "",
        description="Address on which the gateway listens for inbound mail by SMTP. Empty: it does not; `up` starts "
        "a listener.",
    )
    inbound_port: int = Field(2526, ge=0, le=65535, description="Port for inbound mail; 0 takes a free one.")
    inbound_certificate: str = Field(
        "", description="PEM file with the certificate chain for inbound mail; with it STARTTLS is offered."
    )
    inbound_certificate_key: str = Field(
        "", description="PEM file with the key, if the file with the certificate has none."
    )
    inbound_max_bytes: int = Field(
        30_000_000,
        ge=10_000,
        description="Bytes of an inbound message; a larger one is refused. The first 880 kB are stored.",
    )
    inbound_connections: int = Field(100, ge=1, description="SMTP connections at once; one address has at most 20.")
    inbound_rate: float = Field(
        50.0, ge=0, description="Inbound messages per second and sending address, by SMTP; 0 is no limit."
    )
    quiet_days: float = Field(
        90.0,
        ge=0,
        le=36_500,
        description="Days after the last event of an email until the worker deletes its state, if nothing is left to "
        "do for it; its history stays, and later events are added to that. 0 is never.",
    )
    dispatch_concurrency: int = Field(64, ge=1, description="Emails sent concurrently, per dispatcher.")
    emit_concurrency: int = Field(64, ge=1, description="Conversions sent concurrently, per emitter.")
    lane_concurrency: int = Field(
        32, ge=1, description="Jobs that run concurrently per brand, so that no brand takes all capacity."
    )
    lease_seconds: float = Field(
        10.0, gt=0.5, description="Seconds after which a job is released if its worker no longer responds."
    )
    smtp_timeout: float = Field(
        30.0, gt=0, description="Seconds for one SMTP conversation, or one request to a provider's API."
    )
    dispatch_schedule: tuple[Seconds, ...] = Field(
        (60, 300, 900, 1800, 3600, 7200, 14400, 28800, 57600, 86400),
        description="Seconds between delivery attempts, JSON list; after the last the email has failed.",
    )
    emit_schedule: tuple[Seconds, ...] = Field(
        (5, 30, 120, 600, 1800, 7200, 18000, 36000, 43200, 43200, 43200, 43200),
        description="Seconds between conversion attempts, JSON list; after the last the conversion's job is dead.",
    )
    emit_timeout: float = Field(10.0, gt=0, description="Seconds for one conversion request.")
    allow_private_destinations: bool = Field(
        False, description="Allow conversions to loopback and private addresses (the demo and tests do)."
    )
    dns_server: str = Field(
        "",
        pattern=r"^(\[[0-9a-fA-F:.]+\](:\d{1,5})?|[0-9.]+(:\d{1,5})?)?$",
        description="Name server, `192.0.2.53` or `[2001:db8::53]:53`, that `doctor` and `domains verify` ask. Empty: "
        "this machine's.",
    )
    sandbox_host: str = Field("127.0.0.1", description="Address the sandbox provider listens on.")
    sandbox_smtp_port: int = Field(2525, ge=0, le=65535, description="The sandbox's SMTP port; 0 takes a free one.")
    sandbox_http_port: int = Field(2580, ge=0, le=65535, description="The sandbox's inbox and API; 0 takes a free one.")
    sandbox_gateway: str = Field(
        "http://127.0.0.1:8025", description="URL of the gateway, to which the sandbox posts its webhooks."
    )
    sandbox_provider: str = Field("sandbox", description="The sandbox's name in `mailfold providers list`.")
    sandbox_keep: int = Field(1000, ge=1, description="Messages the sandbox keeps; the oldest are deleted first.")
    sandbox_pace: float = Field(
        0.2, ge=0, description="Seconds between the events of an email in the sandbox: delivered, open, click…"
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Lowest level that is logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`json` or `text`; `auto` is text in a terminal and JSON lines everywhere else."
    )
    crash_at: str = Field("", description="Tests only: the named crash point at which the process exits.")
    crash_once: str = Field("", description="Tests only: a file whose removal disarms the crash point.")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks

    def ops_port(self, role: str) -> int:
        """Return the port on which a role serves its metrics and health."""
        port: int = getattr(self, f"ops_port_{role}")
        return port

    def with_embedded_kafka(self, bootstrap: str) -> "Settings":
        """Return these settings with the embedded broker, which listens on loopback only and without security."""
        fields = {name: field.default for name, field in type(self).model_fields.items() if name.startswith("kafka_")}
        return self.model_copy(update={**fields, "kafka_bootstrap": bootstrap})

    def topic(self, name: str) -> str:
        """Return a topic's name on the cluster."""
        return self.topic_prefix + name
