"""The table of a benchmark run, and the machine that it was measured on."""

import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import torch

import kvmem

COLUMNS = (
    ("fused_ms", "fused ms", ".2f"),
    ("eager_ms", "eager ms", ".2f"),
    ("compiled_ms", "compile ms", ".2f"),
    ("eager_over_fused", "x eager", ".1f"),
    ("compiled_over_fused", "x compile", ".1f"),
    ("attention_over_fused", "x attention", ".1f"),
    ("limit_ms", "limit ms", ".2f"),
    ("fused_over_limit", "fused/limit", ".1f"),
    ("peak_over_eager", "memory/eager", ".2f"),
    ("copy_ms", "copy ms", ".2f"),
    ("gemm_gflops", "GEMM GFLOP/s", ".0f"),
    ("processors", "processors", ".2f"),
)
LEGEND = (
    "medians of interleaved rounds; x eager, x compile: how many times faster the fused layer is; limit: the larger of",
    "the time of copying the image (2.5 times with backward) and the FLOPs at the float32 GEMM rate of the same rounds",
    "x attention: than a composition around scaled_dot_product_attention; memory/eager: peak beyond inputs and results",
    "processors: those that the GEMM had; fewer than threads: the machine was busy otherwise, the times mean little",
)


def format_table(summaries: Iterable[dict[str, float | str | dict | None]]) -> list[str]:
    """Lines of the table: one a case and direction, from `Measurement.summary()`."""
    rows = [["case", "direction", *(title for _, title, _ in COLUMNS)]]
    for summary in summaries:
        numbers = ("-" if summary[key] is None else format(summary[key], spec) for key, _, spec in COLUMNS)
        rows.append([summary["case"], summary["direction"], *numbers])
    return [*line_up(rows), *LEGEND]


def line_up(rows: list[list[str]]) -> list[str]:
    """The rows as lines with columns of one width: two of text, then numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i > 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def describe_machine() -> dict[str, str | int | None]:
    """Processor, threads, versions, instruction set of the kernels and commit, as strings for people."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kvmem": kvmem.__version__,
        "cpu_backend": repr(kvmem.backends()["cpu"]),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """The commit of this checkout, with "+changes" where files differ from it; None outside of git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
