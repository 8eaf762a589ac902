"""The person (or robot) who reads: a message in; real GETs on its images and first link out."""

import asyncio
import logging
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from pipeline.devstack.sandbox.event_plan import PlannedVisit, ReaderAction
from pipeline.devstack.sandbox.mailbox import HtmlLinks, SandboxMessage

log = logging.getLogger(__name__)

HUMAN_USER_AGENT: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)
ROBOT_USER_AGENT: Final = "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"
MAX_REQUESTS_IN_FLIGHT: Final = 16
MAX_IMAGES_PER_MESSAGE: Final = 20
"""Of one message; a mail program loads all, a development tool need not."""


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port; what the browser calls the same origin."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or ""), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class ReaderBot:
    """Fetches only from ``origins``, ours: a link to a stranger is written down and left alone."""

    def __init__(self, session: aiohttp.ClientSession, origins: frozenset[tuple[str, str, int | None]]) -> None:
        self._session = session
        self._origins = origins
        self._slots = asyncio.Semaphore(MAX_REQUESTS_IN_FLIGHT)

    async def perform(self, visit: PlannedVisit, message: SandboxMessage) -> None:
        """Load the images, or follow the first link; what came of it is noted with the message."""
        agent = ROBOT_USER_AGENT if visit.by_robot else HUMAN_USER_AGENT
        for url in self.urls_to_fetch(visit.action, message):
            async with self._slots:
                answer = await self._get(url, agent)
            message.event_history.append(f"{visit.action}{' by a robot' if visit.by_robot else ''}: {answer}")

    def urls_to_fetch(self, deed: ReaderAction, message: SandboxMessage) -> list[str]:
        """What there is to fetch for a deed."""
        markup = HtmlLinks(message.html())
        found = markup.images if deed == "open" else markup.links
        ours = [url for url in found if self._ours(url)]
        if not ours:
            message.event_history.append(f"{deed}: nothing of ours in the HTML part to fetch")
        return ours[:MAX_IMAGES_PER_MESSAGE] if deed == "open" else ours[:1]

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
