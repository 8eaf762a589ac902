"""The users of Mailfold, controlled by one seed: Fast Track, which posts batches, a provider and recipients.

The story of an email says what happens to it. Half of the stories put all events into one webhook; in the others each
event follows after the conversion of the previous one has arrived. In both cases the order of conversions is known.
"""

import asyncio
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import aiohttp

from pipeline.runtime.secrets.secret_ring import SecretRing
from tests.chaos.ledger import Arrival, Mail
from tests.chaos.world import World
from tests.support.echoes import echoed

BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
STATUS = {"bounce": "bounced", "delivered": "delivered", "open": "opened", "click": "clicked", "spam": "complained"}
EVENT = {"delivered": "delivered", "open": "open", "click": "click", "spam": "spamreport"}
APPENDED_BY = 1.0
"""Seconds after the answer to a pixel request within which its event is certainly on the log or in the spool."""
LINK = {"open": re.compile(r'src="([^"]+/o/[^"]+)"'), "click": re.compile(r'href="([^"]+/c/[^"]+)"')}


class Story(NamedTuple):
    """The events that will happen to one email."""

    number: int
    brand: str
    words: tuple[str, ...]
    quick: bool
    repeated: bool
    """Whether Fast Track posts it again later, as if it had not received the answer."""

    @property
    def name(self) -> str:
        return f"a-{self.number}"

    @property
    def address(self) -> str:
        return f"{'nobody' if self.words == ('bounce',) else 'player'}{self.number}@example.test"

    @property
    def status(self) -> str:
        return STATUS[self.words[-1]]

    @property
    def activity(self) -> str:
        """Return an activity with an integer beyond 64 bits, an escape, an unusual number and an undocumented field."""
        return (
            f'{{"id":"{self.name}","brand_id":{self.brand},"user_id":"u{self.number}","internal_user_id":'
            f'{10**20 + self.number},"activity_id":3,"action_group_id":4,"trigger_hash":"h\\u00e9","action_id":5,'
            f'"undocumented":{{"n":1.50}}}}'
        )

    def message(self, padding: int = 0) -> str:
        """Return the message as Fast Track posts it, padded with data that cannot be compressed."""
        filler = random.Random(self.number).randbytes(padding // 2).hex()
        rest = {
            "subject": f"Hello {self.number}",
            "content": f'<p>Hi <a href="https://example.test/{self.number}">there</a></p>{filler}',
            "email": self.address,
            "sender_name": "Acme",
            "sender_address": "news@acme.test",
            "replyto_address": "reply@acme.test",
        }
        return f'{{"activity":{self.activity},{json.dumps(rest)[1:]}'


def stories(count: int, brands: int, dice: random.Random, start: int = 0) -> list[Story]:
    """Return ``count`` stories of all kinds."""
    return [_story(number, brands, dice) for number in range(start, start + count)]


def _story(number: int, brands: int, dice: random.Random) -> Story:
    words = [
        "delivered",
        *[word for word, odds in (("open", 3), ("click", 6), ("spam", 20)) if not dice.randrange(odds)],
    ]
    if not dice.randrange(10):
        words = ["bounce"]
    return Story(number, str(1 + number % brands), tuple(words), dice.random() < 0.5, dice.random() < 0.05)


class Traffic:
    """The player of stories on a world."""

    def __init__(self, world: World, http: aiohttp.ClientSession, stories: list[Story], dice: random.Random) -> None:
        self.world, self.http, self.stories, self._dice = world, http, stories, dice
        self._by_address = {story.address: story for story in stories}
        self._by_email: dict[str, Story] = {}
        self._early: dict[str, list[Arrival]] = defaultdict(list)
        self._html: dict[int, str] = {}
        self._begun: set[int] = set()
        self._done: dict[int, set[str]] = {story.number: set() for story in stories}
        self._events: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._clicks = asyncio.Semaphore(16)
        self._provider: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.batches = 20
        """The number of batches that the messages are posted in, at least."""
        self.event_at: dict[tuple[str, str], float] = {}
        """Time at which the webhook for an event of an email was accepted."""
        world.mails.on_mail = self._mailed_elsewhere
        world.receiver.on_told = self._told

    @property
    def left(self) -> list[Story]:
        """Return the stories whose conversions have not all arrived."""
        return [story for story in self.stories if not set(story.words) <= self._done[story.number]]

    async def post(self, span: float, padding: int = 0) -> None:
        """Post all messages over ``span`` seconds."""
        size = max(1, min(500, len(self.stories) // self.batches))
        batches = [self.stories[at : at + size] for at in range(0, len(self.stories), size)]
        self._provider = self._provider or self._task(self._post_webhooks())
        began = time.monotonic()
        for nth, batch in enumerate(batches):
            await asyncio.sleep(max(0.0, began + span * nth / len(batches) - time.monotonic()))
            await self.world.post_batch(self.http, [story.message(padding) for story in batch])
            self._know(batch)
            again = [story for story in batch if story.repeated]
            if again:
                self._task(self._repeat(again))
        assert not self._provider.done(), "the provider fell silent"

    def _know(self, batch: Iterable[Story]) -> None:
        for story in batch:
            if email_id := self.world.ledger.accepted.get(story.name):
                self._by_email[email_id] = story
                for row in self._early.pop(email_id, []):
                    self._told(row)
                # The mail may have come before the answer did.
                if story.number in self._html and story.number not in self._begun:
                    self._begin(story)

    async def _repeat(self, batch: list[Story]) -> None:
        await asyncio.sleep(1 + 4 * self._dice.random())
        await self.world.post_batch(self.http, [story.message() for story in batch])

    def _mailed_elsewhere(self, mail: Mail) -> None:
        """Pass an email to the event loop; the SMTP server calls this in a thread of its own."""
        self._loop.call_soon_threadsafe(self._mailed, mail)

    def _mailed(self, mail: Mail) -> None:
        story = self._by_address.get(mail.to)
        if story is None:
            self.world.ledger.wrong.append(f"a mail to {mail.to}, whom nobody knows")
            return
        self._html.setdefault(story.number, mail.html)
        if story.name in self.world.ledger.accepted and story.number not in self._begun:
            self._by_email[self.world.ledger.accepted[story.name]] = story
            self._begin(story)

    def _begin(self, story: Story) -> None:
        self._begun.add(story.number)
        for word in story.words if story.quick else story.words[:1]:
            self._events.append(self._event(story, word))

    def _told(self, row: Arrival) -> None:
        story = self._by_email.get(row.email_id)
        if story is None:  # Fast Track may hear of an email before the batch's answer comes
            self._early[row.email_id].append(row)
            return
        if row.word in self._done[story.number]:
            return
        self._done[story.number].add(row.word)
        following = story.words[story.words.index(row.word) + 1 :] if row.word in story.words else ()
        if not story.quick and following:
            if following[0] in LINK:
                self._task(self._look(story, following[0]))
            else:
                self._events.append(self._event(story, following[0]))

    def _event(self, story: Story, word: str) -> dict[str, Any]:
        email_id = self.world.ledger.accepted[story.name]
        return {
            "event": EVENT[word],
            "email": "x@example.test",
            "timestamp": int(time.time()) - self._dice.randrange(100),
            "sg_event_id": f"{word}-{email_id}",
            "sg_message_id": "s",
            **echoed(email_id, SecretRing.of(self.world.env["MAILFOLD_SECRET"])),
            **({"useragent": BROWSER["User-Agent"], "url": "https://example.test/"} if word in LINK else {}),
        }

    async def _post_webhooks(self) -> None:
        """Post the events since the last webhook in a new one, some of them twice."""
        while True:
            batch, self._events = self._events[:300], self._events[300:]
            if batch:
                await self.world.post_events(self.http, batch)
                now = time.time()
                for event in batch:
                    self.event_at[event["mailfold_email_id"], event["event"]] = now
                if self._dice.random() < 0.2:
                    await self.world.post_events(self.http, batch)
            await asyncio.sleep(0.2)

    async def _look(self, story: Story, word: str) -> None:
        """Open an email or follow its link as a person would, again if no server answers.

        Also again if a fault hits the gateway right after its answer: a pixel is answered before its event is appended,
        which is the only case in which an answer may come first.
        """
        found = LINK[word].search(self._html[story.number])
        if found is None:
            self.world.ledger.wrong.append(f"mail {story.number} has no {word} link")
            return
        path = re.sub(r"^https?://[^/]+", "", found[1])
        while True:
            hits = self.world.ledger.hit("gateway")
            if await self._answered(path):
                await asyncio.sleep(APPENDED_BY)
                if self.world.ledger.hit("gateway") == hits:
                    return
            else:
                await asyncio.sleep(0.3)

    async def _answered(self, path: str) -> bool:
        async with self._clicks:
            url, timeout = self.world.gateway + path, aiohttp.ClientTimeout(total=5)
            try:
                async with self.http.get(url, headers=BROWSER, allow_redirects=False, timeout=timeout) as answer:
                    return answer.status < 400
            except (aiohttp.ClientError, TimeoutError):
                return False

    def _task(self, coroutine: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.ledger.wrong.append(f"the harness itself broke: {error!r}")

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
