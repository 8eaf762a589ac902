"""Threads for heavy work, shared fairly by tenants: whoever has the fewest at work comes next.

The gateway makes it the event loop's default executor, so that `asyncio.to_thread` means this one; the dispatcher
writes large messages in one. First come, first served would let the tenant with the most and slowest work keep all
others waiting.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

CURRENT_CALLER: Final[ContextVar[str]] = ContextVar("caller", default="")
"""The tenant for whom the running task works; empty before it is known, and for providers' webhooks."""

_QueuedCall = tuple["Future[Any]", Callable[[], Any]]


class FairThreads(ThreadPoolExecutor):
    """A bounded pool in which no caller holds more than three quarters of the threads, however many calls it queues."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="fair")
        self._threads_max = threads
        self._per_caller = max(1, threads * 3 // 4)
        self._mutex = threading.Lock()
        self._waiting: dict[str, deque[_QueuedCall]] = {}
        self._at_work: Counter[str] = Counter()
        self._chosen: deque[tuple[str, _QueuedCall]] = deque()
        """Whose turn it is; the threads take them from here."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Queue a call for the current task's caller."""
        future: Future[T] = Future()
        caller = CURRENT_CALLER.get()
        with self._mutex:
            self._waiting.setdefault(caller, deque()).append((future, lambda: fn(*args, **kwargs)))
        self._start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what waits, then end as any pool."""
        with self._mutex:
            waiting, self._waiting = self._waiting, {}
        for queue in waiting.values():
            for future, _ in queue:
                future.cancel()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _start(self) -> None:
        while (found := self._next()) is not None:
            self._chosen.append(found)
            super().submit(self._run)

    def _next(self) -> tuple[str, _QueuedCall] | None:
        with self._mutex:
            if self._at_work.total() >= self._threads_max:
                return None
            callers = [caller for caller in self._waiting if self._at_work[caller] < self._per_caller]
            if not callers:
                return None
            caller = min(callers, key=lambda caller: self._at_work[caller])
            # Out and in again: of callers with the same number, the one that waits longest is first.
            queue = self._waiting.pop(caller)
            work = queue.popleft()
            if queue:
                self._waiting[caller] = queue
            self._at_work[caller] += 1
            return caller, work

    def _run(self) -> None:
        # An error's traceback holds this frame and those of its callers. Were the future found in one of them, both
        # would keep what the call was given, a whole request's body, until the collector next looks at everything.
        caller, (future, call) = self._chosen.popleft()
        try:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
        finally:
            del future, call
            with self._mutex:
                self._at_work[caller] -= 1
                if not self._at_work[caller]:
                    del self._at_work[caller]
            self._start()
