"""Signals that are noted during a step: when they count, in one process and in several."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from kvmgan.parallel import processes
from kvmgan.runs.interruption import Interrupted, SignalGuard


@pytest.fixture
def guard() -> Iterator[SignalGuard]:
    """One that notes signals instead of raising."""
    with SignalGuard("go on with --resume") as guard:
        guard.defer()
        yield guard


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the other process of two one that has noted this signal."""

    def noted(signum: int) -> None:
        monkeypatch.setattr(processes, "agreed", lambda number: max(number, signum))

    return noted


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def test_the_launchers_signal_may_come_after_that_of_another_was_agreed_on(guard, another):
    """The first process had its signal and both agreed before the launcher sent the second one its own: once only."""
    another(signal.SIGTERM)
    guard.agree()
    assert guard.received == signal.SIGTERM
    send(signal.SIGTERM)
    assert guard.received == signal.SIGTERM


@pytest.mark.parametrize("signum", SignalGuard.SIGNALS)
def test_a_signal_counts_from_the_next_agreement(guard, signum):
    """Between two questions of a step the answer stays the same, or one process would go another way than the rest."""
    guard.agree()
    send(signum)
    assert guard.received is None
    guard.agree()
    assert guard.received == signum


@pytest.mark.parametrize("agreed", [False, True])
def test_the_second_signal_raises(guard, agreed):
    """A step that hangs can be left, before and after the first signal was agreed on."""
    send(signal.SIGINT)
    if agreed:
        guard.agree()
    with pytest.raises(Interrupted, match="go on with --resume") as found:
        send(signal.SIGTERM)
    assert found.value.signum == signal.SIGTERM


def test_what_came_after_the_last_agreement_is_not_lost(guard):
    """It raises where signals raise again; one that was agreed on is the caller's, who has a message of its own."""
    guard.agree()
    send(signal.SIGHUP)
    with pytest.raises(Interrupted) as found:
        guard.resume()
    assert found.value.signum == signal.SIGHUP


def test_what_was_agreed_on_does_not_raise_again(guard):
    send(signal.SIGTERM)
    guard.agree()
    guard.resume()
    with pytest.raises(Interrupted):
        send(signal.SIGTERM)
