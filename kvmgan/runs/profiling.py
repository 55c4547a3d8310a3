"""A profile of a few steps: a trace for chrome://tracing or Perfetto, and the most expensive things as a table."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

ROWS = 10


class StepProfile:
    """Context that profiles ``steps`` steps, after two to warm up, and writes ``trace.json`` into ``folder``.

    With 0 steps it does nothing.
    """

    def __init__(self, steps: int, folder: Path):
        self._path = folder / "trace.json"
        self._profile = None
        if steps:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            plan = schedule(wait=1, warmup=1, active=steps, repeat=1)
            self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write)

    def __enter__(self) -> StepProfile:
        if self._profile is not None:
            self._profile.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._profile is not None:
            self._profile.stop()

    def step(self) -> None:
        """Say that a step is over."""
        if self._profile is not None:
            self._profile.step()

    def _write(self, recorded: profile) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(self._path))
        by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        print(recorded.key_averages().table(sort_by=by, row_limit=ROWS, max_name_column_width=60))
        print(f"profile: {self._path}", flush=True)
