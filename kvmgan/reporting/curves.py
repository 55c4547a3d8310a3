"""Curves of one run, or of several over one another, a panel a figure, as one drawing."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvmgan.errors import UserError
from kvmgan.files import atomic_file
from kvmgan.reporting.run_record import Curve, RunRecord

# Imported where it draws: it takes a second, and a training draws curves when it ends.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
# Panels in this order; what isn't named comes after, by its name.
_FIRST = [r"r_precision_ema", r"attribute_accuracy_ema", r"g", r"d\d+", r"g\d+", r"damsm_.*", r"kl", r"d\d+_accuracy"]
# Parts of a discriminator's loss, and figures of pretraining that training's curves have no room for.
_LEFT_OUT = re.compile(r"d\d+_(real|fake|mismatched).*|.*_real$")


def panels(runs: Sequence[RunRecord]) -> dict[str, dict[str, Curve]]:
    """By figure, in the order of the panels, each run's curve of it."""
    found: dict[str, dict[str, Curve]] = {}
    for run in runs:
        for name, curve in run.curves.items():
            if not _LEFT_OUT.fullmatch(name):
                found.setdefault(name, {})[run.name] = curve
    return {name: found[name] for name in sorted(found, key=_place)}


def draw_curves(found: Mapping[str, Mapping[str, Curve]]) -> str:
    """An SVG element with the panels; a name's colour is the same in all of them."""
    from matplotlib import rc_context

    # The same numbers give the same file: no time and no random names in it.
    with rc_context({"svg.hashsalt": "kvmgan", "svg.fonttype": "none", "font.size": 8}):
        file = io.StringIO()
        _figure(found).savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def save_curves(found: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Write the panels as a PNG file, atomically.

    Raises:
        UserError: if it can't be written.
    """
    from matplotlib import rc_context

    try:
        with rc_context({"font.size": 8}), atomic_file(path) as temporary:
            _figure(found).savefig(temporary, format="png", dpi=110)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def _figure(found: Mapping[str, Mapping[str, Curve]]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for curves in found.values() for name in curves))
    rows = math.ceil(len(found) / COLUMNS)
    last = max((step for curves in found.values() for curve in curves.values() for step, _ in curve), default=0)
    figure = Figure(figsize=(4 * COLUMNS, 2.3 * rows), layout="constrained")
    figure.supxlabel("step")
    for number, (title, curves) in enumerate(found.items(), start=1):
        axes = figure.add_subplot(rows, COLUMNS, number, title=title)
        axes.grid(alpha=0.3)
        # The same steps in every panel, whatever it has figures of; few of these whole numbers have room.
        axes.set_xlim(-0.03 * last, 1.03 * last + 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for name, curve in curves.items():
            steps, values = zip(*curve, strict=True)
            # A line through one step has no length; a run that was judged there again has it twice.
            marker = "o" if len(set(steps)) == 1 else None
            axes.plot(steps, values, color=f"C{names.index(name)}", label=name, marker=marker, linewidth=1)
    if len(names) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _place(name: str) -> tuple[int, str]:
    return next((n for n, pattern in enumerate(_FIRST) if re.fullmatch(pattern, name)), len(_FIRST)), name
