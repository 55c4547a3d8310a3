"""The report page of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kvmgan.files import check_writable, write_text
from kvmgan.reporting.page import make_page
from kvmgan.reporting.run_record import read_runs


def report(paths: Sequence[Path], out: Path) -> None:
    """Write the page of the run folders to ``out``.

    Raises:
        UserError: if one is no run folder, or ``out`` can't be written.
    """
    runs = read_runs(paths)
    check_writable(out.parent, "--out")
    write_text(out, make_page(runs))
    print(f"report: {out}")
