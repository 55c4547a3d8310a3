"""The table of a GPU benchmark, its bars, and the machine that it was measured on."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from gpu_cases import GPU_CONTENDERS, KERNELS, MAIN, MAIN_FLOAT32, STAGE_TWO
from gpu_clocks import read_clocks
from report import describe_machine, line_up

import kvmem

Summary = dict[str, object]
# title, where the number stands in a summary, format
COLUMNS = (
    ("cuda ms", ("milliseconds", "cuda"), ".4f"),
    ("bound ms", ("milliseconds", "bound"), ".4f"),
    ("cuda/bound", ("over_bound", "cuda"), ".2f"),
    ("eager ms", ("milliseconds", "eager"), ".4f"),
    ("x eager", ("times_faster", "cuda", "eager"), ".1f"),
    ("compile ms", ("milliseconds", "compiled"), ".4f"),
    ("x compile", ("times_faster", "cuda", "compiled"), ".1f"),
    ("attention ms", ("milliseconds", "attention"), ".4f"),
    ("x attention", ("times_faster", "cuda", "attention"), ".1f"),
    ("launches", ("launches", "cuda"), "d"),
    ("peak/eager", ("peak_over_eager", "cuda"), ".0%"),
    ("triton ms", ("milliseconds", "triton"), ".4f"),
    ("triton/cuda", ("triton_over_cuda",), ".2f"),
    ("triton x eager", ("times_faster", "triton", "eager"), ".1f"),
    ("triton launches", ("launches", "triton"), "d"),
    ("triton peak/eager", ("peak_over_eager", "triton"), ".0%"),
    *((f"{name} graph ms", ("graph_milliseconds", name), ".4f") for name in GPU_CONTENDERS),
    ("bound spread", ("bound_spread",), ".1%"),
)
LEGEND = (
    "the GPU's time: medians of interleaved rounds, from cold caches, launches queued ahead; x: times faster than that",
    "bound: copying h (forward), reading two and writing one tensor like h (backward), or both",
    "graph: the same call, captured as a CUDA graph and replayed; bound spread: between two medians of the bound",
    "x, launches and peak are those of the CUDA kernels where a title doesn't begin with triton",
)


@dataclass(frozen=True)
class Bar:
    """What a number of a summary is held to: at most or at least something."""

    name: str
    case: str
    direction: str
    path: tuple[str, ...]
    at_most: float | None = None
    at_least: float | None = None

    def result(self, value: float) -> dict[str, object]:
        """Name, value, bounds, whether it is met."""
        met = value <= self.at_most if self.at_least is None else value >= self.at_least
        return {"bar": self.name, "value": value, "at_most": self.at_most, "at_least": self.at_least, "met": met}


BOTH = "forward + backward"
EAGER, COMPILED = ("times_faster", "cuda", "eager"), ("times_faster", "cuda", "compiled")
CUDA_BARS = (
    Bar(f"{MAIN}: forward / copy", MAIN, "forward", ("over_bound", "cuda"), at_most=1.25),
    Bar(f"{MAIN}: backward / read two, write one", MAIN, "backward", ("over_bound", "cuda"), at_most=1.5),
    *(Bar(f"{MAIN}: {direction}, x eager", MAIN, direction, EAGER, at_least=8) for direction in ("forward", BOTH)),
    *(
        Bar(f"{MAIN}: {direction}, x torch.compile", MAIN, direction, COMPILED, at_least=2)
        for direction in ("forward", BOTH)
    ),
    Bar(f"{MAIN_FLOAT32}: forward / copy", MAIN_FLOAT32, "forward", ("over_bound", "cuda"), at_most=1.4),
    Bar(f"{STAGE_TWO}: forward, x eager", STAGE_TWO, "forward", EAGER, at_least=6),
    Bar(f"{STAGE_TWO}: launches forward", STAGE_TWO, "forward", ("launches", "cuda"), at_most=1),
    Bar(f"{MAIN}: peak memory / eager's", MAIN, BOTH, ("peak_over_eager", "cuda"), at_most=0.35),
)
TRITON_BARS = tuple(
    bar
    for case in (MAIN, MAIN_FLOAT32, STAGE_TWO)
    for direction, launches in (("forward", 2), ("backward", 3))
    for bar in (
        Bar(f"{case}: triton {direction} / cuda", case, direction, ("triton_over_cuda",), at_most=1.3),
        Bar(f"{case}: triton {direction}, x eager", case, direction, ("times_faster", "triton", "eager"), at_least=5),
        Bar(f"{case}: triton launches {direction}", case, direction, ("launches", "triton"), at_most=launches),
    )
)


def number(summary: Summary, path: tuple[str, ...]) -> float | None:
    """What stands in a summary under these names; None where a contender didn't run."""
    found: object = summary
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def gpu_rows(summaries: Iterable[Summary]) -> list[list[str]]:
    """The table's cells, one row a case and direction, titles first."""
    rows = [["case", "direction", *(title for title, _, _ in COLUMNS)]]
    for summary in summaries:
        cells = ((number(summary, path), spec) for _, path, spec in COLUMNS)
        numbers = ("-" if value is None else format(value, spec) for value, spec in cells)
        rows.append([summary["case"], summary["direction"], *numbers])
    return rows


def format_gpu_table(summaries: Iterable[Summary]) -> list[str]:
    return [*line_up(gpu_rows(summaries)), *LEGEND]


def bars(summaries: Iterable[Summary]) -> list[dict[str, object]]:
    """What the kernels are held to: name, value, bound, whether it is met. A bar that wasn't measured is left out."""
    found = {(summary["case"], summary["direction"]): summary for summary in summaries}
    values = [(bar, number(found.get((bar.case, bar.direction), {}), bar.path)) for bar in (*CUDA_BARS, *TRITON_BARS)]
    return [bar.result(value) for bar, value in values if value is not None]


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
        "clocks": read_clocks(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        **{f"{name}_backend": repr(kvmem.backends()[name]) for name in KERNELS},
        **{name: machine[name] for name in ("python", "torch", "kvmem", "commit")},
    }
