"""One provider's mails in, handed to its API at the pace it bears, answers out."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.admin import Provider
from pipeline.dispatch.transports.api_base import Api, Call, Reply
from pipeline.dispatch.transports.base import Answer, Mail, Meaning
from pipeline.dispatch.transports.http_client import Line, NoReply
from pipeline.errors import Refused
from pipeline.jobs.job import Lane
from topics.record import Millis

PATIENCE: Final = 5.0
"""Seconds that a provider may ask us to wait without giving the mail back: what is about pace, not about quotas."""
PACE: Final = 1.0
"""Seconds that we wait where it doesn't say how long."""
TRIES: Final = 3
TOO_MANY: Final = 429

Commit = Callable[[], None]


class Desk:
    """Asks one provider's API, never more at once than its row allows."""

    def __init__(self, provider: Provider, api: Api, timeout: float, clock: Callable[[], Millis]) -> None:
        self._provider = provider
        self._api = api
        self._clock = clock
        self._line = Line(provider, timeout)
        self._slots = asyncio.Semaphore(provider.max_connections)
        self._not_before = 0.0

    async def send(self, mail: Mail) -> Answer:
        """One mail, one request."""
        answers = await self.ask(
            lambda: self._api.call(self._provider, mail, self._clock()),
            mail.commit,
            lambda reply: [self._api.answer(reply)],
        )
        return answers[0] if answers else Answer(Meaning.UNKNOWN, 0, "no answer", Lane.FAILING)

    async def ask(
        self, made: Callable[[], Call], commit: Commit, read: Callable[[Reply], Sequence[Answer] | None]
    ) -> Sequence[Answer] | None:
        """Ask, at its pace and again where that is safe; what ``read`` makes of the reply, or one answer for all."""
        async with self._slots:
            for left in reversed(range(TRIES)):
                await self._wait()
                answers = await self._once(made, commit, read)
                first = answers[0] if answers else None
                if first is None or not left or not self._again(first):
                    break
        return answers

    async def _once(
        self, made: Callable[[], Call], commit: Commit, read: Callable[[Reply], Sequence[Answer] | None]
    ) -> Sequence[Answer] | None:
        try:
            return read(await self._line.ask(made(), commit))
        except Refused as error:
            return [Answer(Meaning.REFUSED, 0, str(error), Lane.SILENT)]
        except NoReply as error:
            return [_silence(error)]

    def _again(self, answer: Answer) -> bool:
        """Whether to ask once more at once; sets the pace for everybody."""
        if answer.code == TOO_MANY and answer.retry_after <= PATIENCE:
            self._not_before = _now() + (answer.retry_after or PACE)
            return True
        if answer.meaning is Meaning.UNKNOWN and self._api.REPEATS:
            self._not_before = _now() + PACE
            return True
        return False

    async def _wait(self) -> None:
        while (left := self._not_before - _now()) > 0:
            await asyncio.sleep(left)

    async def close(self) -> None:
        """Close its connections."""
        await self._line.close()


def _silence(error: NoReply) -> Answer:
    if error.ours:
        return Answer(Meaning.MISCONFIGURED, 0, str(error), Lane.BROKEN)
    return Answer(Meaning.UNKNOWN if error.begun else Meaning.LATER, 0, str(error), Lane.FAILING)


def _now() -> float:
    return asyncio.get_running_loop().time()
