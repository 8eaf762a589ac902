"""Many small questions in, one big question out: callers that ask at the same time share one round trip."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BatchLoader(Generic[K, V]):
    """``fetch`` answers many keys at once; while it is at it, the next keys gather."""

    def __init__(self, fetch: Callable[[set[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._fetch = fetch
        self._asked: dict[K, asyncio.Future[V]] = {}
        self._busy: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V:
        """The key's value. Raises KeyError where ``fetch`` had none, and whatever ``fetch`` raised."""
        if key not in self._asked:
            self._asked[key] = asyncio.get_running_loop().create_future()
        answer = self._asked[key]
        if self._busy is None:
            self._busy = asyncio.create_task(self._serve())
        # Shielded: one caller that is cancelled must not take the answer from the others.
        return await asyncio.shield(answer)

    async def _serve(self) -> None:
        try:
            while self._asked:
                # One turn of the loop, so that whoever starts now is served now.
                await asyncio.sleep(0)
                asked, self._asked = self._asked, {}
                await self._answer(asked)
        finally:
            self._busy = None

    async def _answer(self, asked: Mapping[K, "asyncio.Future[V]"]) -> None:
        try:
            found = await self._fetch(set(asked))
        except Exception as error:
            _fail(asked.values(), error)
            return
        for key, answer in asked.items():
            if answer.done():
                continue
            if key in found:
                answer.set_result(found[key])
            else:
                answer.set_exception(KeyError(key))
                answer.exception()


def _fail(answers: Iterable["asyncio.Future[V]"], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
            answer.exception()  # marked as seen: nobody may be waiting any more
