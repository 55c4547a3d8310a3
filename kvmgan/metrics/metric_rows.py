"""The lines of a ``metrics.jsonl``: a metric, a subject, its value and the protocol that it was computed by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvmgan.errors import UserError


def metric_row(
    metric: str, subject: str, value: float, extra: Mapping[str, Any], protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """One row; ``extra`` holds more figures beside the value."""
    return {"metric": metric, "subject": subject, "value": round(value, 3), **extra, "protocol": dict(protocol)}


def append_metrics(path: Path, rows: Sequence[Mapping[str, Any]], step: int) -> None:
    """Add the rows to a ``metrics.jsonl``, each with the training step that it belongs to.

    Without a row it finds out whether the file can be written.

    Raises:
        UserError: if it can't.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps({"step": step, **row}) + "\n" for row in rows))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def format_metrics(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table: subjects down, metrics across [percent]."""
    if not rows:
        return "no metric can be computed on this data"
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    values = {(row["subject"], row["metric"]): row for row in rows}
    lines = [f"{'':<12}" + "".join(f"{metric + ' %':>26}" for metric in metrics)]
    for subject in subjects:
        cells = []
        for metric in metrics:
            row = values[subject, metric]
            cells.append(f"{row['value']:.1f}" + (f" ± {row['std']:.1f}" if "std" in row else ""))
        lines.append(f"{subject:<12}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
