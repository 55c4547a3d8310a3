"""What a run folder tells, read for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvmgan.config import flatten
from kvmgan.config_file import load_options
from kvmgan.errors import UserError
from kvmgan.runs.json_lines import read_steps
from kvmgan.runs.run_folder import RunFolder

# (step, value) pairs.
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class RunRecord:
    """Settings by dotted name, curves by the figure's name, rows of metrics, pictures by kind in the steps' order."""

    name: str
    settings: dict[str, Any]
    curves: dict[str, Curve]
    metrics: list[dict[str, Any]]
    pictures: dict[str, list[Path]]


def read_run(path: Path) -> RunRecord:
    """Read a run folder; lines of it that a crash cut are left out.

    Raises:
        UserError: if it is none, or its settings can't be read.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise UserError(f"{path} is no run folder: it should hold config.yaml")
    folders = (run.samples, run.stages, run.attention, run.seeds, run.words, run.nearest)
    pictures = {folder.name: sorted(folder.glob("step-*.png")) for folder in folders}
    strip = {run.history.name: [run.history_strip] if run.history_strip.is_file() else []}
    return RunRecord(
        path.resolve().name,
        flatten(load_options(run.config)),
        _curves(run.stats),
        read_steps(run.metrics),
        pictures | strip,
    )


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read several run folders; of folders with one name each is called by its whole path.

    Raises:
        UserError: as :func:`read_run` does, or for a folder that is named twice.
    """
    places = [path.resolve() for path in paths]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"{place} is named twice: name each run once")
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    return [
        replace(run, name=str(place)) if names.count(run.name) > 1 else run
        for run, place in zip(runs, places, strict=True)
    ]


def _curves(path: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for line in read_steps(path):
        for name, value in line.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                curves.setdefault(name, []).append((line["step"], float(value)))
    return curves
