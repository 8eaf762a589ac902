"""Query a gateway's suppressions, and publish the changes from which they are projected."""

from typing import Any

import httpx

from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from tests.support.changes import Log
from tests.support.gateway import Gateway
from tests.support.seeing import until
from topics.changes import EmailChange
from topics.registry import EMAIL_CHANGES


async def ask(served: Gateway, method: str, path: str, *, key: str = "", **more: Any) -> httpx.Response:
    return await served.http.request(method, path, headers={"X-Api-Key": key or served.key}, **more)


async def listing(served: Gateway, **parameters: Any) -> list[dict[str, Any]]:
    """Return the suppressions on all pages of a list."""
    entries: list[dict[str, Any]] = []
    while True:
        answer = (await ask(served, "GET", "/suppressions", params=parameters)).json()
        entries += answer["suppressions"]
        if not answer["next"]:
            return entries
        parameters = {"next": answer["next"]}


async def publish(served: Gateway, *logs: Log) -> None:
    """Publish the changes of these logs, and wait until they are projected."""
    changes: list[EmailChange] = [change for log in logs for change in log.changes]
    places = await append_all(served.rt.log, [LogEntry(EMAIL_CHANGES, change.email_id, change) for change in changes])
    ends = {place.partition: place.offset for place in places}

    async def are_projected() -> bool:
        async with served.rt.pool.connection() as connection:
            query = "select partition, next_offset from projections.next_offsets"
            next_offsets = dict(await (await connection.execute(query)).fetchall())
        return all(next_offsets.get(partition, 0) > end for partition, end in ends.items())

    await until(are_projected)
