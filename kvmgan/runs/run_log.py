"""The figures of a run over its steps: a line each in ``stats.jsonl``, and TensorBoard's events."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from kvmgan.files import write_text
from kvmgan.parallel import processes
from kvmgan.runs.run_folder import RunFolder


def run_log(run: RunFolder, step: int) -> RunLog | SilentLog:
    """The log of a run; that of a process that doesn't lead writes nothing."""
    return RunLog(run, step) if processes.leads() else SilentLog()


class SilentLog:
    """Stands where a log is expected, and writes nothing."""

    def __enter__(self) -> SilentLog:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Nothing."""


class RunLog:
    """Context in which figures are written; those after ``step`` are forgotten: a resumed run writes them again."""

    def __init__(self, run: RunFolder, step: int):
        self._stats = run.stats
        if self._stats.exists():
            lines = self._stats.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self._stats, "".join(line for line in lines if json.loads(line)["step"] <= step))
        self._events = SummaryWriter(run.path, purge_step=step + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._events.close()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of a step; one that isn't finite becomes null in ``stats.jsonl``."""
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        with self._stats.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        for name, value in figures.items():
            self._events.add_scalar(name, value, step)
