"""The registry of topics: every topic's name, key, value, wire format, cleanup and retention.

Topics that share the key `email_id` share partition count and partitioner (murmur2, Kafka's
default): a fact's partition is its state's and its change's.
"""

from typing import Any, Final, Literal

import msgspec

from topics.acks import Ack
from topics.actions import OperatorAction
from topics.changes import EmailChange, Tick
from topics.contents import ContentChunk
from topics.conversions import ConversionResult
from topics.dead_letters import DeadLetter
from topics.events import DeliveryEvent, Retraction
from topics.requests import SendRequest
from topics.states import EmailState
from topics.suppressions import SuppressionDecision
from topics.templates import Template
from topics.webhooks import RawWebhook

DAY_MS: Final = 24 * 60 * 60 * 1000
MAX_RECORD_BYTES: Final = 900_000
"""Bytes of a record's value, at most: with the batch header below Kafka's default limit of 1 MiB per batch."""


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it must exist on the cluster."""

    name: str
    key: Literal["email_id", "content_id", "provider_message_id", "template", "suppression", "none"]
    value: Any
    """The record type, or the union of record types, on it."""
    retention_text: str
    """Retention in words, for documentation."""
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = -1
    loss: str = ""
    """The consequence of a shorter retention, for operators; empty for compacted topics."""
    wire: Literal["json", "msgpack"] = "json"
    has_one_partition: bool = False
    """True for topics of few records that people read in order."""


MESSAGE_CONTENTS: Final = Topic(
    name="message-contents",
    key="content_id",
    value=ContentChunk,
    retention_text="7 days",
    retention_ms=7 * DAY_MS,
    wire="msgpack",
    loss="emails that are sent late find no content and fail",
)
SEND_REQUESTS: Final = Topic(
    name="send-requests",
    key="email_id",
    value=SendRequest,
    retention_text="400 days",
    retention_ms=400 * DAY_MS,
    loss="a rebuilt database lacks the emails' history and does not recognise repeated requests",
)
PROVIDER_ACKS: Final = Topic(
    name="provider-acks",
    key="email_id",
    value=Ack,
    retention_text="400 days",
    retention_ms=400 * DAY_MS,
    loss="a rebuilt database does not know that emails were sent and tries to send them again",
)
PROVIDER_WEBHOOKS: Final = Topic(
    name="provider-webhooks",
    key="none",
    value=RawWebhook,
    retention_text="30 days",
    retention_ms=30 * DAY_MS,
    wire="msgpack",
    loss="`mailfold renormalize` finds no raw webhooks",
)
DELIVERY_EVENTS: Final = Topic(
    name="delivery-events",
    key="email_id",
    value=DeliveryEvent | Retraction,
    retention_text="400 days",
    retention_ms=400 * DAY_MS,
    loss="a worker that comes back late misses events",
)
UNCORRELATED_EVENTS: Final = Topic(
    name="uncorrelated-events",
    key="provider_message_id",
    value=DeliveryEvent,
    retention_text="30 days",
    retention_ms=30 * DAY_MS,
    loss="a rebuilt database does not find events that still wait for their ack",
)
CONVERSION_RESULTS: Final = Topic(
    name="conversion-results",
    key="email_id",
    value=ConversionResult,
    retention_text="400 days",
    retention_ms=400 * DAY_MS,
    loss="a rebuilt database sends Fast Track conversions again",
)
EMAIL_STATES: Final = Topic(
    name="email-states", key="email_id", value=EmailState, retention_text="compacted", cleanup="compact"
)
EMAIL_CHANGES: Final = Topic(
    name="email-changes",
    key="email_id",
    value=EmailChange | Tick,
    retention_text="400 days",
    retention_ms=400 * DAY_MS,
    loss="`mailfold rebuild` finds less than Postgres has",
)
TEMPLATES: Final = Topic(
    name="templates",
    key="template",
    value=Template,
    retention_text="compacted",
    cleanup="compact",
    has_one_partition=True,
)
SUPPRESSIONS: Final = Topic(
    name="suppressions",
    key="suppression",
    value=SuppressionDecision,
    retention_text="compacted",
    cleanup="compact",
    has_one_partition=True,
)
DEAD_LETTERS: Final = Topic(
    name="dead-letters",
    key="none",
    value=DeadLetter,
    retention_text="400 days",
    retention_ms=400 * DAY_MS,
    wire="msgpack",
    has_one_partition=True,
    loss="records that nobody has replayed are lost",
)

OPERATOR_ACTIONS: Final = Topic(
    name="operator-actions",
    key="none",
    value=OperatorAction,
    retention_text="400 days",
    retention_ms=400 * DAY_MS,
    has_one_partition=True,
    loss="nobody can tell any more who changed what",
)

TOPICS: Final = (
    MESSAGE_CONTENTS,
    SEND_REQUESTS,
    PROVIDER_ACKS,
    PROVIDER_WEBHOOKS,
    UNCORRELATED_EVENTS,
    DELIVERY_EVENTS,
    CONVERSION_RESULTS,
    EMAIL_STATES,
    EMAIL_CHANGES,
    TEMPLATES,
    SUPPRESSIONS,
    DEAD_LETTERS,
    OPERATOR_ACTIONS,
)
ROLE_TOPICS: Final = tuple(topic for topic in TOPICS if topic is not OPERATOR_ACTIONS)
"""The topics without which roles can't work; without the other one, operators can't change anything."""
FACT_TOPICS: Final = (SEND_REQUESTS, PROVIDER_ACKS, DELIVERY_EVENTS, CONVERSION_RESULTS)
"""The topics that the fold reads."""
