"""What a test of suppressions asks of a gateway, and what it publishes."""

from typing import Any

import httpx

from pipeline.runtime.kafka import append_all
from pipeline.runtime.ports import LogEntry
from tests.support.changes import Log
from tests.support.gateway import Gateway
from tests.support.seeing import until
from topics.changes import EmailChange
from topics.registry import EMAIL_CHANGES


async def ask(served: Gateway, method: str, path: str, *, key: str = "", **more: Any) -> httpx.Response:
    return await served.http.request(method, path, headers={"X-Api-Key": key or served.key}, **more)


async def listing(served: Gateway, **asked: Any) -> list[dict[str, Any]]:
    """Every page of a listing."""
    found: list[dict[str, Any]] = []
    while True:
        answer = (await ask(served, "GET", "/suppressions", params=asked)).json()
        found += answer["suppressions"]
        if not answer["next"]:
            return found
        asked = {"next": answer["next"]}


async def publish(served: Gateway, *logs: Log) -> None:
    """What the fold said of these emails, until it is projected."""
    changes: list[EmailChange] = [change for log in logs for change in log.changes]
    places = await append_all(served.rt.log, [LogEntry(EMAIL_CHANGES, change.email_id, change) for change in changes])
    ends = {place.partition: place.offset for place in places}

    async def there() -> bool:
        async with served.rt.pool.connection() as connection:
            query = "select partition, next_offset from projections.next_offsets"
            found = dict(await (await connection.execute(query)).fetchall())
        return all(found.get(partition, 0) > end for partition, end in ends.items())

    await until(there)
