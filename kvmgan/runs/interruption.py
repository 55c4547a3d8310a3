"""Ctrl-C, SIGTERM, a terminal that is closed: at once between phases, after the running step inside the training."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Interrupted(Exception):
    """A signal asked the program to stop; ``signum`` is its number, the message says how to go on."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class SignalGuard:
    """Context in which SIGINT, SIGTERM and SIGHUP raise :class:`Interrupted`, or, after :meth:`defer`, are noted.

    One that was ignored when the program began stays so: SIGHUP under nohup.

    What was noted counts from the next :meth:`agree`, in all processes alike: :attr:`received` stays as it is until
    then, whatever comes in between. A second signal to the same process raises, so that a step that hangs can still be
    left.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, message: str):
        self.message = message
        self.received: int | None = None
        # What came to this process; by the launcher's hand often after all have agreed on what came to another.
        self._noted: int | None = None
        self._deferred = False
        self._owner = os.getpid()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> SignalGuard:
        for signum in self.SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def defer(self) -> None:
        """From now on note a signal instead of raising."""
        self._deferred = True

    def agree(self) -> None:
        """Set :attr:`received` in every process to a signal that one has noted: it comes to each in its own time.

        Called after every step, so that all stop after the same one.
        """
        # Imported here: a command whose words are wrong ends before torch is loaded, and it imports this module.
        from kvmgan.parallel import processes

        self.received = processes.agreed(self._noted or 0) or None

    def resume(self) -> None:
        """Raise at a signal again; at once if one was noted that nobody has agreed on.

        Raises:
            Interrupted: with :attr:`message`.
        """
        self._deferred = False
        if self._noted is not None and self.received is None:
            raise Interrupted(self._noted, self.message)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked data worker inherits this handler: the parent decides on what comes to both, SIGTERM ends it.
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        if self._deferred and self._noted is None:
            self._noted = signum
            return
        raise Interrupted(signum, self.message)
