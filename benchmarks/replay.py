"""Rounds that were measured elsewhere, for pytest-benchmark's table."""

from collections.abc import Callable


class ReplayedClock:
    """The clock that pytest-benchmark reads: it moves by the seconds that were measured in interleaved rounds.

    pytest-benchmark by itself times one contender after the other; on a shared machine that compares different minutes.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


CLOCK = ReplayedClock()


def replay(benchmark: Callable, seconds: list[float]) -> None:
    """Gives the rounds to pytest-benchmark's fixture; the test has `CLOCK.read` as its timer."""
    rounds = iter(seconds)
    benchmark.pedantic(CLOCK.advance, setup=lambda: ((next(rounds),), {}), rounds=len(seconds))
