"""The person (or robot) who reads: a message in; real GETs on its images and first link out."""

import asyncio
import logging
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from pipeline.devstack.sandbox.event_plan import Deed, Visit
from pipeline.devstack.sandbox.mailbox import Markup, Message

log = logging.getLogger(__name__)

HUMAN: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)
ROBOT: Final = "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"
AT_ONCE: Final = 16
IMAGES: Final = 20
"""Of one message; a mail program loads all, a development tool need not."""


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port; what the browser calls the same origin."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or ""), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class Recipient:
    """Fetches only from ``origins``, ours: a link to a stranger is written down and left alone."""

    def __init__(self, session: aiohttp.ClientSession, origins: frozenset[tuple[str, str, int | None]]) -> None:
        self._session = session
        self._origins = origins
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def do(self, visit: Visit, message: Message) -> None:
        """Load the images, or follow the first link; what came of it is noted with the message."""
        agent = ROBOT if visit.robot else HUMAN
        for url in self.addresses(visit.deed, message):
            async with self._slots:
                answer = await self._get(url, agent)
            message.told.append(f"{visit.deed}{' by a robot' if visit.robot else ''}: {answer}")

    def addresses(self, deed: Deed, message: Message) -> list[str]:
        """What there is to fetch for a deed."""
        markup = Markup(message.html())
        found = markup.images if deed == "open" else markup.links
        ours = [url for url in found if self._ours(url)]
        if not ours:
            message.told.append(f"{deed}: nothing of ours in the HTML part to fetch")
        return ours[:IMAGES] if deed == "open" else ours[:1]

    def _ours(self, url: str) -> bool:
        try:
            return origin(url) in self._origins
        except ValueError:
            return False

    async def _get(self, url: str, agent: str) -> str:
        try:
            # A click's redirect leads out into the world; that it was given is what counts.
            async with self._session.get(url, headers={"User-Agent": agent}, allow_redirects=False) as response:
                await response.read()
                return str(response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("not answered: %s", type(error).__name__)
            return f"no answer ({type(error).__name__})"
