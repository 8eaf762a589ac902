"""Ask the brokers which rights the user of these settings lacks; `mailfold doctor` calls it.

Brokers tell a client its own rights on topics and groups (KIP-430, Kafka 2.3). Listing ACLs would need a right of an
administrator, and would not say which principal the brokers take this client for.
"""

import contextlib
from collections.abc import Collection
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CoordinatorLoadInProgressError,
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

from pipeline.errors import LogUnavailable, MailfoldError
from pipeline.operations.kafka_rights import KafkaRight, Operation
from pipeline.runtime.kafka.clients import create_admin, start_client
from pipeline.settings import Settings

OPERATION_CODES: Final[dict[Operation, int]] = {
    **{"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10, "IdempotentWrite": 12},
}
"""Kafka's numbers for operations, which are bits in a set of them."""
_TRANSACTION: Final = 1
_TEXT: Final = String("utf-8")
_TOPIC_AUTHORIZATION_FAILED: Final = 29
_GROUP_AUTHORIZATION_FAILED: Final = 30


class RightsUntold(MailfoldError):
    """These brokers do not tell a client its rights; Kafka 2.3 and newer do."""


# aiokafka knows these requests up to the versions before those that tell rights.
class MetadataWithRightsResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    """Metadata, version 8: brokers, topics, and the caller's operations as bits."""

    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class MetadataWithRightsStruct(RequestStruct):  # type: ignore[misc]
    """The request for :class:`MetadataWithRightsResponse`."""

    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = MetadataWithRightsResponse
    SCHEMA = Schema(
        ("topics", Array(_TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class MetadataWithRightsRequest(Request[MetadataWithRightsStruct]):  # type: ignore[misc]
    """Metadata of some topics; none is created."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[MetadataWithRightsStruct]) -> MetadataWithRightsStruct:
        """Return the request in the only version that is known here."""
        return request_struct_class(self._topics, False, False, True)


class GroupsWithRightsResponse(Response):  # type: ignore[misc]
    """DescribeGroups, version 3: groups, and the caller's operations as bits."""

    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", _TEXT),
                ("state", _TEXT),
                ("protocol_type", _TEXT),
                ("protocol", _TEXT),
                (
                    "members",
                    Array(
                        ("member_id", _TEXT),
                        ("client_id", _TEXT),
                        ("client_host", _TEXT),
                        ("member_metadata", Bytes),
                        ("member_assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class GroupsWithRightsStruct(RequestStruct):  # type: ignore[misc]
    """The request for :class:`GroupsWithRightsResponse`."""

    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = GroupsWithRightsResponse
    SCHEMA = Schema(("groups", Array(_TEXT)), ("include_authorized_operations", Boolean))


class GroupsWithRightsRequest(Request[GroupsWithRightsStruct]):  # type: ignore[misc]
    """A description of one group."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[GroupsWithRightsStruct]) -> GroupsWithRightsStruct:
        """Return the request in the only version that is known here."""
        return request_struct_class([self._group], True)


async def find_missing_rights(settings: Settings, rights: Collection[KafkaRight]) -> set[KafkaRight]:
    """Return those of the rights that the user certainly lacks.

    What can't be asked, such as of a topic that does not exist, is not among them. Raise LogUnavailable,
    InvalidSettings, and RightsUntold for old brokers.
    """
    admin = create_admin(settings)
    await start_client(admin, settings)
    try:
        allowed = await _topic_operations(admin, settings, {right.name for right in rights if right.kind == "topic"})
        for right in rights:
            if right.kind == "group":
                allowed["group", right.name] = await _group_operations(admin, settings.topic_prefix + right.name)
            elif right.kind == "transactional-id":
                allowed["transactional-id", right.name] = await _transaction_operations(
                    admin, f"{settings.topic_prefix}{right.name}doctor" if right.is_prefix else right.name
                )
    except NotImplementedError as error:
        raise RightsUntold from error
    except KafkaError as error:
        raise LogUnavailable(f"rights can't be asked for: {type(error).__name__}") from error
    finally:
        await admin.close()
    return {
        right
        for right in rights
        if (bits := allowed.get((right.kind, right.name))) is not None
        and not bits >> OPERATION_CODES[right.operation] & 1
    }


async def _topic_operations(
    admin: AIOKafkaAdminClient, settings: Settings, names: set[str]
) -> dict[tuple[str, str], int | None]:
    """Return the bits of each topic; without the topics that do not exist."""
    response = await admin._send_request(MetadataWithRightsRequest([settings.topic(name) for name in names]))
    bits: dict[tuple[str, str], int | None] = {}
    for code, topic, _internal, _partitions, operations in response.topics:
        if code in (0, _TOPIC_AUTHORIZATION_FAILED):
            bits["topic", topic.removeprefix(settings.topic_prefix)] = 0 if code else operations
    return bits


async def _group_operations(admin: AIOKafkaAdminClient, group: str) -> int | None:
    """Return a group's bits; None where its coordinator is away."""
    try:
        coordinator = await admin.find_coordinator(group)
    except GroupAuthorizationFailedError:
        return 0
    except (GroupCoordinatorNotAvailableError, CoordinatorLoadInProgressError):
        return None
    response = await admin._send_request_to_node(coordinator, GroupsWithRightsRequest(group))
    [(code, *_, operations)] = response.groups
    if code == _GROUP_AUTHORIZATION_FAILED:
        return 0
    return None if code else int(operations)


async def _transaction_operations(admin: AIOKafkaAdminClient, transactional_id: str) -> int | None:
    """Return Write's bit where the user may ask for the coordinator, which whoever may write may; nothing is begun."""
    with contextlib.suppress(GroupCoordinatorNotAvailableError, CoordinatorLoadInProgressError):
        try:
            await admin.find_coordinator(transactional_id, _TRANSACTION)
        except TransactionalIdAuthorizationFailed:
            return 0
        return 1 << OPERATION_CODES["Write"]
    return None
