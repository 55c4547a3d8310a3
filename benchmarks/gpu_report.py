"""The table of a GPU benchmark, its bars, and the machine that it was measured on."""

from collections.abc import Iterable

import torch
from gpu_cases import MAIN, MAIN_FLOAT32, STAGE_TWO
from report import describe_machine, line_up

import kvmem

Summary = dict[str, object]
TITLES = (
    "case",
    "direction",
    "fused ms",
    "bound ms",
    "fused/bound",
    "eager ms",
    "x eager",
    "compile ms",
    "x compile",
    "sdpa ms",
    "x sdpa",
    "launches",
    "peak/eager",
)
LEGEND = (
    "the GPU's time: medians of interleaved rounds, from cold caches, launches queued ahead; x: times faster than that",
    "bound: copying h (forward), reading two and writing one tensor like h (backward), or both",
)


def gpu_rows(summaries: Iterable[Summary]) -> list[list[str]]:
    """The table's cells, one row a case and direction, titles first."""
    rows = [list(TITLES)]
    for summary in summaries:
        times, peaks = summary["milliseconds"], summary["peak_bytes"]
        peak = peaks["fused"] / peaks["eager"] if "fused" in peaks else None
        cells = (
            (times.get("fused"), ".4f"),
            (times["bound"], ".4f"),
            (summary["fused_over_bound"], ".2f"),
            (times["eager"], ".4f"),
            (summary["eager_over_fused"], ".1f"),
            (times.get("compiled"), ".4f"),
            (summary["compiled_over_fused"], ".1f"),
            (times.get("sdpa"), ".4f"),
            (summary["sdpa_over_fused"], ".1f"),
            (summary["launches"].get("fused"), "d"),
            (peak, ".0%"),
        )
        numbers = ("-" if value is None else format(value, spec) for value, spec in cells)
        rows.append([summary["case"], summary["direction"], *numbers])
    return rows


def format_gpu_table(summaries: Iterable[Summary]) -> list[str]:
    return [*line_up(gpu_rows(summaries)), *LEGEND]


def bars(summaries: Iterable[Summary]) -> list[dict[str, object]]:
    """What the kernels are held to: name, value, bound, whether it is met. A bar that wasn't measured is left out."""
    found = {(summary["case"], summary["direction"]): summary for summary in summaries}
    results: list[dict[str, object]] = []

    def bar(
        name: str, case: str, direction: str, key: str, at_most: float | None = None, at_least: float | None = None
    ):
        value = found.get((case, direction), {}).get(key)
        if value is not None:
            met = value <= at_most if at_least is None else value >= at_least
            results.append({"bar": name, "value": value, "at_most": at_most, "at_least": at_least, "met": met})

    both = "forward + backward"
    bar(f"{MAIN}: forward / copy", MAIN, "forward", "fused_over_bound", at_most=1.25)
    bar(f"{MAIN}: backward / read two, write one", MAIN, "backward", "fused_over_bound", at_most=1.5)
    for direction in ("forward", both):
        bar(f"{MAIN}: {direction}, x eager", MAIN, direction, "eager_over_fused", at_least=8)
        bar(f"{MAIN}: {direction}, x torch.compile", MAIN, direction, "compiled_over_fused", at_least=2)
    bar(f"{MAIN_FLOAT32}: forward / copy", MAIN_FLOAT32, "forward", "fused_over_bound", at_most=1.4)
    bar(f"{STAGE_TWO}: forward, x eager", STAGE_TWO, "forward", "eager_over_fused", at_least=6)
    for (case, direction), summary in found.items():
        if case == STAGE_TWO and direction == "forward" and "fused" in summary["launches"]:
            results.append(_at_most(f"{case}: launches forward", summary["launches"]["fused"], 1))
        if case == MAIN and direction == both and "fused" in summary["peak_bytes"]:
            peaks = summary["peak_bytes"]
            results.append(_at_most(f"{case}: peak memory / eager's", peaks["fused"] / peaks["eager"], 0.35))
    return results


def _at_most(name: str, value: float, bound: float) -> dict[str, object]:
    return {"bar": name, "value": value, "at_most": bound, "at_least": None, "met": value <= bound}


def format_bars(results: Iterable[dict[str, object]]) -> list[str]:
    lines = []
    for result in results:
        bound = f"<= {result['at_most']}" if result["at_least"] is None else f">= {result['at_least']}"
        lines.append(f"{'pass' if result['met'] else 'FAIL'}  {result['bar']}: {result['value']:.3g}, bar {bound}")
    return lines


def describe_gpu() -> dict[str, object]:
    """Device, versions, architectures of the kernels and commit."""
    properties = torch.cuda.get_device_properties(0)
    machine = describe_machine()
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "cuda_backend": repr(kvmem.backends()["cuda"]),
        **{name: machine[name] for name in ("python", "torch", "kvmem", "commit")},
    }
