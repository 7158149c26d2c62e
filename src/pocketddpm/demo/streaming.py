"""`stream`: work that reports as it goes, as a generator that can be stopped at any report."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition, Event
from typing import Any, TypeVar

Item = TypeVar("Item")

WORKERS = 2  # people who are served at the same time; more wait in the page's queue
# Threads that stay: each new thread would bring a new pool of torch's own along.
_POOL = ThreadPoolExecutor(WORKERS, thread_name_prefix="pocketddpm-demo")


class Stopped(Exception):
    """Raised inside of the work when nobody looks any more."""


def stream(work: Callable[[Callable[[Item], None]], object]) -> Iterator[Item]:
    """Yield what `work(report)` reports while it works in another thread.

    The work never waits for the reader: of reports not yet taken the newest is kept, the last one
    always. Closing the generator makes the next report raise `Stopped` inside the work. What the
    work raises is raised here, after its last report.
    """
    news, stop = Condition(), Event()
    latest: list[Item] = []

    def report(item: Item) -> None:
        if stop.is_set():
            raise Stopped
        with news:
            latest[:] = [item]
            news.notify()

    def over(_: "Future[Any]") -> None:
        with news:
            news.notify()

    future = _POOL.submit(work, report)
    future.add_done_callback(over)
    try:
        while True:
            with news:
                news.wait_for(lambda: latest or future.done())
                items = latest.copy()
                latest.clear()
            if not items:
                break
            yield from items
        future.result()
    finally:
        stop.set()
        future.cancel()
