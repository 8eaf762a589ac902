"""The demo's requests to Mailfold as a tenant makes them: batches and history; used by the demo's run."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import psycopg

from pipeline.devstack.demo.scenario import DemoEmail, batch_body
from pipeline.errors import PermanentError

MAX_PAGES: Final = 1_000
"""Pages read at most, so that a cursor that leads back cannot keep the demo running."""


class UnexpectedResponse(PermanentError):
    """An answer of the gateway that contradicts its documentation."""


@dataclass(frozen=True)
class DemoClient:
    """A client of the gateway with one tenant's API key."""

    http: aiohttp.ClientSession
    gateway: str
    key: str

    async def post_batch(self, emails: list[DemoEmail]) -> dict[str, DemoEmail]:
        """Post a batch and return its emails by the email_id that each was given."""
        headers = {"X-Api-Key": self.key, "Content-Type": "application/json"}
        url = f"{self.gateway}/channels/email/batch"
        async with self.http.post(url, data=batch_body(emails), headers=headers) as response:
            body = await response.text()
            if response.status != 200:
                raise UnexpectedResponse(f"the batch was answered {response.status}: {body[:500]}")
            answer = await response.json()
        email_ids = {item["id"]: item["email_id"] for item in answer["successful"]}
        missing = [email.identity for email in emails if email.identity not in email_ids]
        if missing or answer["failed"] or answer["fatal"]:
            raise UnexpectedResponse(f"not every email of the batch was accepted: {body[:1000]}")
        return {email_ids[email.identity]: email for email in emails}

    async def is_refused(self, key: str) -> bool:
        """Return whether a batch with this API key is refused."""
        headers = {"X-Api-Key": key, "Content-Type": "application/json"}
        async with self.http.post(f"{self.gateway}/channels/email/batch", data=b"[]", headers=headers) as response:
            return response.status in (401, 403)

    async def history_pages(self) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        """Yield the pages of the history, newest first, each with the cursor of the next; empty on the last page."""
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
        raise UnexpectedResponse(f"the history does not end after {MAX_PAGES} pages")


async def email_states(connection: "psycopg.AsyncConnection[Any]") -> Mapping[str, str]:
    """Return each email's status by email_id, for the display only: it is finer than the State of `/v1/Email/`."""
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


def history_faults(emails: Mapping[str, DemoEmail], listed: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with the history: each email must be listed once, with the State of its conversions."""
    states: dict[str, list[str]] = {}
    for entry in listed:
        states.setdefault(entry["MessageId"], []).append(entry["State"])
    faults = [f"the history lists {email_id}, which was never sent" for email_id in states if email_id not in emails]
    for email_id, email in emails.items():
        expected = STATE_BY_WORD[next(word for word in _WORDS_BY_STRENGTH if word in email.case.expected_words)]
        if states.get(email_id) != [expected]:
            actual = ", ".join(states.get(email_id, [])) or "not at all"
            faults.append(f"{email.identity} ({email_id}): the history lists it as {actual}, expected {expected}")
    return faults
