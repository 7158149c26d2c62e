"""A function of many items on all cores, its results in order.

Processes, because decoding a small image is mostly Python. They are started by `subprocess`:
`multiprocessing` would run the user's script again in each of them, and a script that trains has
seldom a guard against that.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from pocketddpm.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
ALONE = 1.0  # seconds of work in this process, before others are started
CHUNK = 8  # items that travel together


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_all_cores(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield function(item) of every item, in order.

    What is done in a second is done in this process; the rest by as many as there are cores.

    function: defined at the top of one of our modules, or a partial of such a one; it returns what
        it finds wrong, and raises nothing. Items and results are pickled.

    Raises DataError when a process ends before its work is done.
    """
    started, done = time.monotonic(), 0
    alone = cores() < 2 or not sys.executable
    while done < len(items) and (alone or time.monotonic() - started < ALONE):
        yield function(items[done])
        done += 1
    chunks = [slice(k, k + CHUNK) for k in range(done, len(items), CHUNK)]
    workers = [_start() for _ in range(min(cores(), len(chunks)))]
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def work(some: Sequence[T]) -> list[R]:
        worker = idle.get()
        assert worker.stdin is not None and worker.stdout is not None
        try:
            pickle.dump((function, some), worker.stdin)
            worker.stdin.flush()
            return pickle.load(worker.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise DataError(
                f"a process that decodes images has ended with code {worker.wait()}; "
                "if the memory was full, free some of it and start again"
            ) from None
        finally:
            idle.put(worker)

    waiting: deque[Future[list[R]]] = deque()
    pool = ThreadPoolExecutor(max(len(workers), 1))
    try:
        for which in chunks:
            waiting.append(pool.submit(work, items[which]))
            # Two for each: one at work, one that waits. No more results than that lie in memory.
            if len(waiting) >= 2 * len(workers):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for worker in workers:
            worker.kill()
        pool.shutdown(cancel_futures=True)  # once no thread reads from a worker any more
        for worker in workers:
            with suppress(BrokenPipeError), worker:
                pass


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import _serve; _serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _serve() -> Any:
    """Answer with the results of every list of items that comes in, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all: ours stops us
    with suppress(EOFError, BrokenPipeError):
        while True:
            function, items = pickle.load(sys.stdin.buffer)
            pickle.dump([function(item) for item in items], sys.stdout.buffer)
            sys.stdout.buffer.flush()
