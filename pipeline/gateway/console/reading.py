"""Read what the pages show, through the same functions as the HTTP API and the commands; no query of its own."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiokafka.errors import KafkaError

from pipeline import admin
from pipeline.dispatch.content_reader import open_content_reader
from pipeline.errors import LogUnavailable, NotFound, Unrecognised
from pipeline.gateway.console.sessions import Viewer
from pipeline.gateway.history_reader import HistoryReader
from pipeline.operations import status as status_operation
from pipeline.operations.dead_letters import DeadLetterEntry, recent_letters
from pipeline.operations.status import StatusSnapshot
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.ttl_cache import TTLCache
from projections import email_queries, history_queries
from projections.email_listing import EmailRow
from projections.history_queries import EmailHistory
from topics.contents import MessageContent
from topics.record import EmailId, Millis
from topics.registry import MESSAGE_CONTENTS

STATUS_TTL_S: Final = 5.0
"""Seconds for which the state of the installation is shown again: reading it asks every partition of Kafka."""
STATUS_TIMEOUT_S: Final = 8.0
MAX_CONTENT_READERS: Final = 3
"""Contents that are read from Kafka at once, each by a connection of its own; people look at few of them."""
MAX_VERSIONS: Final = 50
"""Versions that the page of one email names."""
log = get_logger(__name__)


@dataclass(frozen=True)
class InstallationStatus:
    """The state of the installation; without a snapshot, why there is none."""

    snapshot: StatusSnapshot | None
    problem: str = ""


class ConsoleReader:
    """Reads what the pages show."""

    def __init__(self, rt: Runtime, history: HistoryReader, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rt = rt
        self._history = history
        self._status: TTLCache[str, InstallationStatus] = TTLCache(STATUS_TTL_S, 1, monotonic)
        self._status_lock = asyncio.Lock()
        self._content_readers = asyncio.Semaphore(MAX_CONTENT_READERS)

    async def status(self) -> InstallationStatus:
        """Return the state of the whole installation, at most some seconds old."""
        async with self._status_lock:
            if "" not in self._status:
                # Cached from when it was read: else whoever waited meanwhile would wait again, one after the other.
                self._status.put("", await self._load_status(""))
            return await self._status.get("", self._load_status)

    async def sees_installation(self, viewer: Viewer) -> bool:
        """Return whether the viewer may see what belongs to no single tenant, such as the topic of dead letters.

        A key with the scope `admin` may, and one without scopes where there is no other tenant.
        """
        scopes = viewer.key.limits.scopes
        if scopes is not None:
            return "admin" in scopes
        # Not cached: with a second tenant, what belongs to the installation is no longer this one's.
        return len(await admin.fetch_rows(self._rt.pool, "list_tenants")) == 1

    async def email_history(self, viewer: Viewer, email_id: str, as_of: Millis | None = None) -> EmailHistory:
        """Return the history of an email of the viewer's tenant and brand, now or as of a moment. Raise NotFound."""
        if as_of is None:
            async with self._rt.pool.connection() as connection, connection.transaction():
                await history_queries.begin_snapshot(connection)
                history = await history_queries.find_email_history(connection, EmailId(email_id))
        else:
            history = await self._past_history(viewer, EmailId(email_id), as_of)
        request = None if history is None else history.state.request
        if history is None or request is None or request.tenant != viewer.tenant:
            raise NotFound("No email with this id is known. A new one is shown within seconds of its acceptance.")
        if not viewer.key.may_use_brand(request.brand):
            raise NotFound(f"This email is of another brand than {viewer.key.limits.brand}, which your key is for.")
        return history

    async def email_versions(self, viewer: Viewer, email_id: str) -> list[EmailRow]:
        """Return the first versions of an email, in their order, at most `MAX_VERSIONS`."""

        async def find(connection: history_queries.Connection) -> list[EmailRow]:
            latest = await history_queries.latest_projected_time(connection)
            page = await email_queries.find_versions(
                connection, viewer.tenant, EmailId(email_id), latest, after_version=0, limit=MAX_VERSIONS
            )
            return list(page.rows)

        return await self._history.read(find, as_of=None)

    async def _past_history(self, viewer: Viewer, email_id: EmailId, as_of: Millis) -> EmailHistory | None:
        """Return an email as it was at a moment, without its jobs, which have no past."""

        async def find(connection: history_queries.Connection) -> EmailHistory | None:
            moment = min(as_of, await history_queries.latest_projected_time(connection))
            row = await email_queries.find_email(connection, viewer.tenant, email_id, moment)
            if row is None:
                return None
            timelines = await email_queries.find_timelines(connection, [email_id], moment)
            return EmailHistory(row.state, row.version, row.valid_from, -1, timelines.get(email_id, []), [])

        return await self._history.read(find, as_of=as_of)

    async def email_content(self, history: EmailHistory) -> MessageContent | str:
        """Return the content of an email from the log, or why it can't be shown."""
        pointer = None if history.state.request is None else history.state.request.content
        if pointer is None:
            return "Its send request names no content."
        try:
            async with self._content_readers, open_content_reader(self._rt.settings) as reader:
                return await reader.get(pointer)
        except Unrecognised:
            return f"Its content is no longer on the log: contents are kept for {MESSAGE_CONTENTS.retention_text}."
        except (LogUnavailable, KafkaError, TimeoutError) as error:
            log.warning("content of an email not shown", error=type(error).__name__)
            return "Kafka did not answer in time, so the content can't be shown now. Load the page again."

    async def dead_letters(self, limit: int) -> list[DeadLetterEntry] | None:
        """Return the newest records of the topic `dead-letters`, the newest first; None where Kafka does not answer."""
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return (await recent_letters(self._rt, limit))[::-1]
        except (LogUnavailable, KafkaError, TimeoutError) as error:
            log.warning("dead letters not read", error=type(error).__name__)
            return None

    async def _load_status(self, _: str) -> InstallationStatus:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return InstallationStatus(await status_operation.read_status(self._rt))
        except (LogUnavailable, KafkaError, TimeoutError) as error:
            log.warning("state of the installation not read", error=type(error).__name__)
            return InstallationStatus(
                None, "Kafka or Postgres did not answer in time, so the state of the roles can't be shown."
            )
