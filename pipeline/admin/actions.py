"""Record what operators change on `operator-actions`, before it takes effect.

Every command and route that changes what an operator decides does so inside :meth:`ActionRecorder.recorded`; a test of
the architecture finds those that don't. `mailfold actions` reads the records.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pipeline.errors import ActionNotRecorded
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.ports import Clock, Log, LogEntry, NewId
from pipeline.webhooks.redaction import redact_all
from topics.actions import OperatorAction
from topics.record import EmailId
from topics.registry import OPERATOR_ACTIONS

logger = get_logger(__name__)

MAX_REASON_CHARS: Final = 1_000
MAX_TARGET_CHARS: Final = 1_000
MAX_VALUES_BYTES: Final = 200_000
"""Bytes of the values before or after a change, which fit into a record twice; longer ones are left out."""

Values = Mapping[str, Any] | None
"""What is stored of something, by name; None where there is nothing."""


@dataclass(frozen=True)
class OperatorChange:
    """A change that is to be made."""

    what: str
    """The command or route, such as ``keys.revoke``."""
    target: str
    """The name of the thing that is changed, or an address's hash."""
    tenant: str = ""
    email_id: str = ""
    reason: str = ""
    before: Values = None
    after: Values = None


class ActionRecorder:
    """Records the changes of one operator, who may be a person with the command line or an API key."""

    def __init__(self, log: Log, clock: Clock, new_id: NewId, actor: str) -> None:
        self._log, self._clock, self._new_id = log, clock, new_id
        self._actor = actor

    @contextlib.asynccontextmanager
    async def recorded(self, change: OperatorChange) -> AsyncIterator[None]:
        """Record a change, and run the block that makes it once Kafka has confirmed the record.

        Raise ActionNotRecorded, before the block, where Kafka does not confirm. If the block raises, a second record
        with the same id tells that the change was not made, as far as Kafka takes it.
        """
        action = self._action(change)
        if (await self._log.append([LogEntry(OPERATOR_ACTIONS, None, action)]))[0] is None:
            logger.error("change of an operator not recorded, and so refused", what=change.what)
            raise ActionNotRecorded(
                "the change was not made, because Kafka did not confirm its record on operator-actions: `mailfold "
                "doctor` says what is wrong, `mailfold topics create` makes a missing topic; then repeat the change"
            )
        try:
            yield
        except BaseException as error:
            # The error's class alone, because its text may quote an address.
            failed = msgspec.structs.replace(action, failure=type(error).__name__, recorded_at=self._clock())
            with contextlib.suppress(Exception):
                await self._log.append([LogEntry(OPERATOR_ACTIONS, None, failed)])
            raise

    def _action(self, change: OperatorChange) -> OperatorAction:
        return OperatorAction(
            action_id=self._new_id(),
            recorded_at=self._clock(),
            actor=self._actor,
            what=change.what,
            target=_text(change.target, MAX_TARGET_CHARS),
            tenant=change.tenant,
            email_id=EmailId(change.email_id),
            reason=_text(change.reason, MAX_REASON_CHARS),
            before=_values(change.before),
            after=_values(change.after),
        )


def _text(text: str, max_chars: int) -> str:
    """Return a text without addresses and without lone surrogates, which can't be encoded."""
    return redact_all(text[:max_chars]).encode("utf-8", "replace").decode()


def _values(values: Values) -> msgspec.Raw:
    encoded = msgspec.json.encode(_without_addresses(values), enc_hook=str)
    return msgspec.Raw(encoded if len(encoded) <= MAX_VALUES_BYTES else b'"too long to be recorded"')


def _without_addresses(value: Any) -> Any:
    if isinstance(value, str):
        return redact_all(value).encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_without_addresses(name): _without_addresses(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_addresses(item) for item in value]
    return value
