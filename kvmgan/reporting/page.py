"""The page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from kvmgan.evaluation.tables import protocol_text
from kvmgan.metrics.metric_rows import figure, title
from kvmgan.reporting.curves import draw_curves, panels
from kvmgan.reporting.run_record import RunRecord

# Of the pictures of a run over time, so many are shown, spread evenly, the last among them.
SHOWN = 6
# By the name of their folder.
TITLES = {
    "samples": "Samples over time: caption, real picture, generated picture",
    "stages": "Stages, from coarse to fine, and the real picture",
    "attention": "Attention of each word",
    "history": "One caption over the training",
    "seeds": "One caption, several noises",
    "words": "One word changed at a time",
    "nearest": "Training pictures that samples are nearest to",
}


def make_page(runs: Sequence[RunRecord]) -> str:
    """The report of several runs."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("kvmgan.reporting").joinpath("page.html").read_text(encoding="utf-8"))
    found = panels(runs)
    return template.render(
        title=", ".join(run.name for run in runs),
        curves=jinja2.utils.markupsafe.Markup(draw_curves(found)) if found else None,
        metrics=[(run.name, _latest(run)) for run in runs],
        pictures=[(run.name, _pictures(run)) for run in runs],
        names=[run.name for run in runs],
        titles=TITLES,
        settings=_settings(runs),
    )


def _latest(run: RunRecord) -> list[dict[str, Any]]:
    """The last figure of every metric, subject and protocol but for the version of the code."""
    last: dict[tuple, dict[str, Any]] = {}
    for row in run.metrics:
        last[row["metric"], row["subject"], row["protocol"].get("name"), row["protocol"].get("images")] = row
    return [
        {
            "metric": title(row["metric"]),
            "subject": row["subject"],
            "figure": figure(row),
            "step": row["step"],
            "protocol": protocol_text(row["protocol"]),
        }
        for row in last.values()
    ]


def _pictures(run: RunRecord) -> dict[str, list[tuple[str, str]]]:
    """By kind, (step, data address) of those that are shown: samples over time, of the others the last one."""
    return {
        kind: [(path.stem, _address(path)) for path in (_spread(paths) if kind == "samples" else paths[-1:])]
        for kind, paths in run.pictures.items()
        if paths
    }


def _spread(paths: Sequence[Path]) -> list[Path]:
    count = min(SHOWN, len(paths))
    return [paths[round(number * (len(paths) - 1) / max(count - 1, 1))] for number in range(count)]


def _address(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str], bool]]:
    """Name, each run's value, and whether these differ; those that do come first."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows = [(name, [str(run.settings.get(name, "")) for run in runs]) for name in names]
    marked = [(name, values, len(set(values)) > 1) for name, values in rows]
    return sorted(marked, key=lambda row: not row[2])
