"""Being told to stop: by SIGTERM, SIGHUP, or a scheduler's warning (SIGUSR1, SIGUSR2) that a job's time is nearly up.

What a stage has finished is on the disk at any moment, so most stop at once; a training first saves its state
(`deferred_signals`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar

REQUEUE = 75  # exit code: EX_TEMPFAIL of sysexits.h, not a failure; the same command goes on
ENDS, WARNS = (signal.SIGTERM, signal.SIGHUP), (signal.SIGUSR1, signal.SIGUSR2)


class Stopped(SystemExit):
    """This process, or another of its training, was told to stop by the signal `name`.

    `last` stays where what was interrupted fails while it cleans up, and its error takes this one's place.
    """

    last: ClassVar[Stopped | None] = None

    def __init__(self, number: int):
        super().__init__(REQUEUE)
        self.name = signal.Signals(number).name
        Stopped.last = self


def stop(number: int, _: FrameType | None) -> None:
    """Unwind this process as Ctrl-C does, so that the processes it started end with it."""
    raise Stopped(number)


def listen() -> None:
    """`stop` on each of the signals, but for a SIGHUP that nohup ignores and a warning that submitit listens to."""
    for number in (*ENDS, *WARNS):
        now = signal.getsignal(number)
        if now is not signal.SIG_IGN and (number in ENDS or now is signal.SIG_DFL):
            signal.signal(number, stop)


def ignore() -> None:
    """None of the signals from here on."""
    for number in (*ENDS, *WARNS):
        signal.signal(number, signal.SIG_IGN)


class DeferredSignals:
    """Whether this process was told to stop while signals are held, and by which."""

    def __init__(self) -> None:
        self.number = 0
        self.before = {number: signal.getsignal(number) for number in (*ENDS, *WARNS)}

    def note(self, number: int, _: FrameType | None) -> None:
        """A handler that only remembers; a second signal changes nothing."""
        self.number = self.number or number

    def listen(self) -> None:
        """Take the signals, from Lightning too, whose own handler for SIGTERM talks to other processes at once."""
        for number, handler in self.before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self.note)

    def stop(self, number: int) -> None:
        """Stop now, as any of the processes was told by `number`: first what listened before has its turn."""
        own, self.number = self.number, 0
        if own and callable(self.before[own]):
            self.before[own](own, None)  # submitit's queues the job again and exits
        raise Stopped(number)


@contextmanager
def deferred_signals() -> Iterator[DeferredSignals]:
    """Within, signals are noted and whoever is within stops at a good moment; after it they are as before.

    One that was noted and found no such moment stops at the end.
    """
    signals = DeferredSignals()
    signals.listen()
    try:
        yield signals
    except SystemExit:
        if not signals.number:
            raise
    finally:
        for number, handler in signals.before.items():
            signal.signal(number, handler)
    if signals.number:
        signals.stop(signals.number)
