"""How a run is asked to stop: Ctrl-C and SIGTERM, at the same step in every process."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pocketddpm.distributed import count, gathered

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ASK_EVERY = 10  # steps between which several processes ask each other


class Stop:
    """Whether, and by which signal, the run was asked to stop.

    signal: what all processes have agreed on; the one that this process received may be younger.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say
        self.signal: signal.Signals | None = None
        self._received: signal.Signals | None = None

    def after(self, step: int, *, last: bool = False) -> bool:
        """Whether to stop after this step; several processes stop at the same one.

        They ask each other every ten steps, and after the last one.
        """
        if last or count() == 1 or step % ASK_EVERY == 0:
            number = max(gathered(int(self._received or 0)))
            self.signal = signal.Signals(number) if number else None
        return self.signal is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the first signal as a request; a second one is immediate.

        Within a second of the first it is the same one, passed on by torchrun or a job's shell.
        """
        asked = 0.0

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if self._received is not None and time.monotonic() > asked + 1:
                raise KeyboardInterrupt
            if self._received is None:
                self._received, asked = signal.Signals(number), time.monotonic()
                self.say("stopping soon; once more to stop at once")

        old = {s: signal.signal(s, handle) for s in SIGNALS}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
