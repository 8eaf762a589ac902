"""The demo as the product's customer: batches, history pages and states, by the public doors."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import psycopg

from pipeline.devstack.demo.scenario import DemoEmail, batch_body
from pipeline.errors import PermanentError

MAX_PAGES: Final = 1_000
"""Pages read at most: a cursor that goes round must not keep us."""


class UnexpectedResponse(PermanentError):
    """The product answered something that its contract doesn't say."""


@dataclass(frozen=True)
class DemoClient:
    """One tenant's view of the gateway."""

    http: aiohttp.ClientSession
    gateway: str
    key: str

    async def post_batch(self, roles: list[DemoEmail]) -> dict[str, DemoEmail]:
        """Post a batch; the roles by the email_id that each was given."""
        headers = {"X-Api-Key": self.key, "Content-Type": "application/json"}
        url = f"{self.gateway}/channels/email/batch"
        async with self.http.post(url, data=batch_body(roles), headers=headers) as response:
            body = await response.text()
            if response.status != 200:
                raise UnexpectedResponse(f"the batch was answered {response.status}: {body[:500]}")
            answer = await response.json()
        given = {taken["id"]: taken["email_id"] for taken in answer["successful"]}
        lost = [role.identity for role in roles if role.identity not in given]
        if lost or answer["failed"] or answer["fatal"]:
            raise UnexpectedResponse(f"not everything was taken: {body[:1000]}")
        return {given[role.identity]: role for role in roles}

    async def is_refused(self, key: str) -> bool:
        """Whether a batch under another key is refused."""
        headers = {"X-Api-Key": key, "Content-Type": "application/json"}
        async with self.http.post(f"{self.gateway}/channels/email/batch", data=b"[]", headers=headers) as response:
            return response.status in (401, 403)

    async def history_pages(self) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        """The history from the newest, page by page, each with its cursor to the next (empty at the end)."""
        cursor = ""
        for _ in range(MAX_PAGES):
            query = {"Next": cursor} if cursor else {}
            url, headers = f"{self.gateway}/v1/Email/", {"X-Api-Key": self.key}
            async with self.http.get(url, params=query, headers=headers) as response:
                if response.status != 200:
                    raise UnexpectedResponse(
                        f"the history was answered {response.status}: {(await response.text())[:500]}"
                    )
                page = await response.json()
            cursor = page.get("Next") or ""
            yield page["Emails"], cursor
            if not cursor:
                return
        raise UnexpectedResponse(f"the history has no end after {MAX_PAGES} pages")


async def email_states(connection: "psycopg.AsyncConnection[Any]") -> Mapping[str, str]:
    """Each email's status, finer than `/v1/Email/` tells it: for the screen alone, no verdict reads it."""
    rows = await connection.execute("select email_id::text, status from projections.history")
    return dict(await rows.fetchall())


STATE_BY_WORD: Final = {
    "spam": "complaint",
    "bounce": "bounced",
    "dropped": "bounced",
    "failed": "bounced",
    "delivered": "delivered",
    "open": "delivered",
    "click": "delivered",
}
_WORDS_BY_STRENGTH: Final = ("spam", "bounce", "dropped", "failed", "click", "open", "delivered")


def history_faults(roles: Mapping[str, DemoEmail], listed: list[dict[str, Any]]) -> list[str]:
    """What the pages say wrongly: each email once, in the State that its words make. Pure."""
    seen: dict[str, list[str]] = {}
    for email in listed:
        seen.setdefault(email["MessageId"], []).append(email["State"])
    faults = [f"the history lists {email_id}, which nobody sent" for email_id in seen if email_id not in roles]
    for email_id, role in roles.items():
        wanted = STATE_BY_WORD[next(word for word in _WORDS_BY_STRENGTH if word in role.case.expected_words)]
        if seen.get(email_id) != [wanted]:
            found = ", ".join(seen.get(email_id, [])) or "not at all"
            faults.append(f"{role.identity} ({email_id}): the history lists it as {found}, it is {wanted}")
    return faults
