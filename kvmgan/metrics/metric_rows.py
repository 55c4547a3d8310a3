"""The lines of a ``metrics.jsonl``: a metric, a subject, its value and the protocol that it was computed by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvmgan.errors import UserError

# By metric: its name in tables, the factor on its value there, decimals.
_SHOWN = {
    "fid": ("FID", 1, 2),
    "kid": ("KID ×10³", 1000, 2),
    "is": ("IS", 1, 2),
    "fd": ("FD", 1, 2),
    "kd": ("KD ×10³", 1000, 2),
    "precision": ("precision", 1, 3),
    "recall": ("recall", 1, 3),
    "fd_dinov2": ("FD-DINOv2", 1, 2),
    "clip_score": ("CLIPScore", 1, 2),
    "diversity": ("diversity", 1, 3),
    "r_precision": ("R-precision %", 1, 1),
    "attribute_accuracy": ("attributes %", 1, 1),
}


def metric_row(
    metric: str, subject: str, value: float, extra: Mapping[str, Any], protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """One row; ``extra`` holds more figures beside the value."""
    extra = {name: _short(figure) if isinstance(figure, float) else figure for name, figure in extra.items()}
    return {"metric": metric, "subject": subject, "value": _short(value), **extra, "protocol": dict(protocol)}


def _short(value: float) -> float:
    """Six digits: a kernel distance may be 0.0004."""
    return float(f"{value:.6g}")


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
    """The rows as a table: subjects down, metrics across."""
    if not rows:
        return "no metric can be computed on this data"
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    values = {(row["subject"], row["metric"]): row for row in rows}
    titles = [title(metric) for metric in metrics]
    cells = [
        [figure(values[subject, metric]) if (subject, metric) in values else "" for metric in metrics]
        for subject in subjects
    ]
    widths = [max(map(len, column)) + 3 for column in zip(titles, *cells, strict=True)]
    lines = []
    for name, line in zip(["", *subjects], [titles, *cells], strict=True):
        lines.append(f"{name:<12}" + "".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    return "\n".join(lines)


def title(metric: str) -> str:
    """What a metric is called in tables, with its unit."""
    return _SHOWN[metric][0]


def figure(row: Mapping[str, Any]) -> str:
    """The value of a row as tables show it, with the deviation that it has."""
    _, factor, decimals = _SHOWN[row["metric"]]
    deviation = f" ± {factor * row['std']:.{decimals}f}" if "std" in row else ""
    return f"{factor * row['value']:.{decimals}f}{deviation}"
