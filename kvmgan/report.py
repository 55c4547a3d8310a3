"""Show runs on one page: ``python -m kvmgan.report RUN...`` writes one HTML file that needs nothing beside it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from kvmgan.command_line import parse, run_command
from kvmgan.errors import UserError

PROG = "python -m kvmgan.report"


@dataclass(frozen=True)
class ReportCommand:
    """Write curves, metrics, pictures and settings of runs as one HTML page; several runs stand over one another."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path | None = None
    """File of the page; by default report.html in the first run's folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_report, argv)


def _report(argv: Sequence[str]) -> None:
    command = parse(ReportCommand, argv, prog=PROG)
    if not command.runs:
        raise UserError(f"no run is named: {PROG} RUN...")
    # Imported here: it takes seconds, and whoever mistypes an option needn't wait for them.
    from kvmgan.actions.report import report

    report(command.runs, command.out or command.runs[0] / "report.html")


if __name__ == "__main__":
    sys.exit(main())
