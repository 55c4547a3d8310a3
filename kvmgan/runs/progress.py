"""Progress of a phase: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from tqdm import tqdm

from kvmgan.parallel import processes


class Progress:
    """Context that follows a phase of ``total`` steps, begun at step ``start``.

    On a terminal tqdm draws a bar on standard error; else :meth:`report` prints a line on standard output with the
    step, the values, on a GPU the memory taken at most, items a second and the time left.
    """

    def __init__(self, label: str, total: int, start: int = 0, items: str = "img"):
        self.label, self.total, self.items = label, total, items
        self.done = start
        self._count = 0
        self._mark = time.perf_counter(), start, 0
        self._bar = None
        if sys.stderr.isatty() and processes.leads():
            self._bar = tqdm(total=total, initial=start, desc=label, unit="step", dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, items: int) -> None:
        """Count one step that handled that many items."""
        self.done += 1
        self._count += items
        if self._bar is not None:
            self._bar.update()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose time is none of the steps': pictures, a judgement; speed and time left are as without it."""
        began = time.perf_counter()
        yield
        self._mark = self._mark[0] + time.perf_counter() - began, *self._mark[1:]

    @property
    def items_per_second(self) -> float:
        """Items a second since the last report, or since the phase began."""
        return (self._count - self._mark[2]) / self._elapsed()

    def report(self, values: Mapping[str, float]) -> None:
        """Show the current values; the speed and the time left are those since the last report."""
        shown = {name: f"{value:.3g}" for name, value in values.items()}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            shown["memory"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        speed = f"{self.items_per_second:.0f} {self.items}/s"
        left = self._elapsed() / max(self.done - self._mark[1], 1) * (self.total - self.done)
        self._mark = time.perf_counter(), self.done, self._count
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join([speed, *(f"{name} {text}" for name, text in shown.items())]))
            return
        text = "  ".join(f"{name} {value}" for name, value in shown.items())
        print(f"{self.label} {self.done}/{self.total}  {text}  {speed}  {_clock(left)} left", flush=True)

    def _elapsed(self) -> float:
        return max(time.perf_counter() - self._mark[0], 1e-9)


class Phases:
    """Wall-clock times of the parts of a command [seconds], printed as they end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def end(self, name: str) -> None:
        """Book the time since the last call (or the start) under ``name``."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._began
        self._began = now
        print(f"phase {name}: {self.seconds[name]:.1f} s", flush=True)

    def summary(self) -> str:
        """All phases and their sum on one line."""
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return f"{parts}; in all {_clock(sum(self.seconds.values()))}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
