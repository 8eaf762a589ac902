"""The recipient who opens and clicks, by real HTTP requests; called by :mod:`pipeline.devstack.sandbox.provider`."""

import asyncio
import logging
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from pipeline.devstack.sandbox.event_plan import PlannedVisit, ReaderAction
from pipeline.devstack.sandbox.mailbox import HtmlLinks, SandboxMessage
from pipeline.runtime.ports import Clock

log = logging.getLogger(__name__)

HUMAN_USER_AGENT: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)
ROBOT_USER_AGENT: Final = "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"
MAX_REQUESTS_IN_FLIGHT: Final = 16
MAX_IMAGES_PER_MESSAGE: Final = 20
"""A mail program loads all images; a development tool need not."""


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port, which browsers call the origin of a URL."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or ""), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class ReaderBot:
    """A reader of messages, person or robot, who sends requests only to ``origins``, which are Mailfold's own."""

    def __init__(
        self, session: aiohttp.ClientSession, origins: frozenset[tuple[str, str, int | None]], clock: Clock
    ) -> None:
        self._session = session
        self._origins = origins
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_REQUESTS_IN_FLIGHT)

    async def perform(self, visit: PlannedVisit, message: SandboxMessage) -> None:
        """Load the images or follow the first link, and record each answer in the message's history."""
        user_agent = ROBOT_USER_AGENT if visit.by_robot else HUMAN_USER_AGENT
        reader = " by a robot" if visit.by_robot else ""
        for url in self.urls_to_fetch(visit.action, message):
            async with self._slots:
                answer = await self._get(url, user_agent)
            # A robot's visit is recorded, but says nothing about the message's state.
            counts = not visit.by_robot and answer.startswith(("2", "3"))
            message.record(self._clock(), f"{visit.action}{reader}: {answer}", visit.action if counts else "")

    def urls_to_fetch(self, action: ReaderAction, message: SandboxMessage) -> list[str]:
        """Return the URLs that an action requests, and record it where there are none."""
        html_links = HtmlLinks(message.html())
        urls = html_links.images if action == "open" else html_links.links
        own_urls = [url for url in urls if self._is_own(url)]
        if not own_urls:
            message.record(self._clock(), f"{action}: nothing of ours in the HTML part to fetch")
        return own_urls[:MAX_IMAGES_PER_MESSAGE] if action == "open" else own_urls[:1]

    def _is_own(self, url: str) -> bool:
        try:
            return origin(url) in self._origins
        except ValueError:
            return False

    async def _get(self, url: str, user_agent: str) -> str:
        try:
            # The redirect of a click leads out of Mailfold; the answer is all that counts.
            async with self._session.get(url, headers={"User-Agent": user_agent}, allow_redirects=False) as response:
                await response.read()
                return str(response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("recipient's request not answered: %s", type(error).__name__)
            return f"no answer ({type(error).__name__})"
