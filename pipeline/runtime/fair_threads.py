"""Run heavy work in threads that tenants share fairly: the next call is of the tenant with the fewest running.

The gateway makes it the event loop's default executor, so that `asyncio.to_thread` uses it; the dispatcher builds
large messages in it. First come, first served would let the tenant with the most and slowest work delay all others.
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
"""The tenant for whom the present task works; empty before authentication, and for providers' webhooks."""

_QueuedCall = tuple["Future[Any]", Callable[[], Any]]


class FairThreads(ThreadPoolExecutor):
    """A thread pool in which no caller has more than three quarters of the threads, however many calls it queues."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="fair")
        self._max_threads = threads
        self._max_per_caller = max(1, threads * 3 // 4)
        self._mutex = threading.Lock()
        self._waiting: dict[str, deque[_QueuedCall]] = {}
        self._running: Counter[str] = Counter()
        self._ready: deque[tuple[str, _QueuedCall]] = deque()
        """Calls that count as running, in the order in which the threads take them."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Queue a call for the current task's caller."""
        future: Future[T] = Future()
        caller = CURRENT_CALLER.get()
        with self._mutex:
            self._waiting.setdefault(caller, deque()).append((future, lambda: fn(*args, **kwargs)))
        self._start_ready_calls()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel the queued calls, then shut the pool down."""
        with self._mutex:
            waiting, self._waiting = self._waiting, {}
        for queue in waiting.values():
            for future, _ in queue:
                future.cancel()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _start_ready_calls(self) -> None:
        while (ready := self._take_next()) is not None:
            self._ready.append(ready)
            super().submit(self._run_ready_call)

    def _take_next(self) -> tuple[str, _QueuedCall] | None:
        with self._mutex:
            if self._running.total() >= self._max_threads:
                return None
            callers = [caller for caller in self._waiting if self._running[caller] < self._max_per_caller]
            if not callers:
                return None
            caller = min(callers, key=lambda caller: self._running[caller])
            # Removed and added again at the end, so that callers with the same number of running calls take turns.
            queue = self._waiting.pop(caller)
            work = queue.popleft()
            if queue:
                self._waiting[caller] = queue
            self._running[caller] += 1
            return caller, work

    def _run_ready_call(self) -> None:
        # An error's traceback refers to this frame, and the future refers to the error. The call and the future are
        # deleted below, or this cycle would keep the call's arguments, a whole request's body, until the next full
        # garbage collection.
        caller, (future, call) = self._ready.popleft()
        try:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
        finally:
            del future, call
            with self._mutex:
                self._running[caller] -= 1
                if not self._running[caller]:
                    del self._running[caller]
            self._start_ready_calls()
