"""Timing on a GPU: by its own events, in interleaved rounds, with cold caches and the host out of the way."""

from collections.abc import Callable
from statistics import median

import torch
from cases import Case
from gpu_cases import KERNELS, make_bounds, make_gpu_contenders
from gpu_clocks import read_clocks
from gpu_graphs import captured, measuring_stream
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

ROUNDS, WARMUP_ROUNDS = 30, 4
FLUSH_BYTES, FLUSH_CACHES = 256 << 20, 4  # a buffer of at least so many bytes and second-level caches
# Before every call the GPU waits about this long, so that the call's launches are queued when it starts.
WAIT_CYCLES = 4_000_000
GEMM_SIZE = 8192
BOUND, BOUND_AGAIN = "bound", "bound again"


def make_flush() -> Callable[[], object]:
    """Empties the caches by reading: a buffer that was written would still have to go out when the call begins."""
    size = max(FLUSH_BYTES, FLUSH_CACHES * torch.cuda.get_device_properties(0).L2_cache_size)
    buffer = torch.zeros(size // 4, device="cuda")
    total = torch.empty((), device="cuda")
    return lambda: torch.sum(buffer, dim=0, out=total)


def interleave_on_gpu(functions: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Name -> seconds of the GPU for each round, without the waiting for launches, from cold caches."""
    for _ in range(WARMUP_ROUNDS):
        for function in functions.values():
            function()
    flush = make_flush()
    events = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(WAIT_CYCLES)
            flush()
            begin.record()
            function()
            end.record()
            events[name].append((begin, end))
        torch.cuda.synchronize()
    return {name: [begin.elapsed_time(end) / 1e3 for begin, end in pairs] for name, pairs in events.items()}


def host_and_gpu_seconds(function: Callable[[], object], calls: int = 20) -> float:
    """Seconds a call, one call after the other: what a caller sees who doesn't wait, from warm caches."""
    for _ in range(3):
        function()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def launched_kernels(function: Callable[[], object]) -> list[str]:
    """Names of the kernels that a call launches; copies and fills by the driver left out."""
    function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        function()
        torch.cuda.synchronize()
    events = profiler.profiler.kineto_results.events()
    names = [event.name() for event in events if event.device_type() == DeviceType.CUDA]
    return [name for name in names if not name.startswith(("Memcpy", "Memset"))]


def peak_bytes(function: Callable[[], object]) -> int:
    """Bytes of the GPU's memory in use at the highest, beyond what is in use before the call."""
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def gemm_rates() -> dict[str, float]:
    """Floating-point operations a second of a large torch.mm, by dtype: the matrix units' rate in this run."""
    rates = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        factor = torch.randn(GEMM_SIZE, GEMM_SIZE, device="cuda").to(dtype)
        product = torch.empty_like(factor)
        seconds = interleave_on_gpu({"gemm": lambda f=factor, p=product: torch.mm(f, f, out=p)}, rounds=8)["gemm"]
        rates[str(dtype).removeprefix("torch.")] = 2 * GEMM_SIZE**3 / median(seconds)
    return rates


class GpuMeasurement:
    """One case in one direction: seconds of each round for the contenders and the bound, launches and peak memory.

    The bound runs twice in a round, first and last: the difference says how much of the others' is chance. The
    contenders' CUDA graphs come last, in rounds of their own, since a capture that fails may leave CUDA in disorder.
    """

    def __init__(self, case: Case, direction: str, compiled: bool, kernels: tuple[str, ...] = KERNELS) -> None:
        self.case, self.direction = case, direction
        with measuring_stream():
            contenders = make_gpu_contenders(case, direction, compiled, kernels)
            bound = make_bounds(case)[direction]
            self.seconds = interleave_on_gpu({BOUND: bound, **contenders, BOUND_AGAIN: bound})
            self.clocks = read_clocks()
            plain = [name for name in (*KERNELS, "eager") if name in contenders]
            self.queued = {name: host_and_gpu_seconds(contenders[name]) for name in plain}
            self.kernels = {name: launched_kernels(contenders[name]) for name in plain}
            self.peaks = {name: peak_bytes(function) for name, function in contenders.items()}
            replays, self.uncaptured = captured(contenders)
            self.graph_seconds = interleave_on_gpu(replays)

    def summary(self) -> dict[str, object]:
        """Medians in milliseconds, their ratios by name of the kernels, and the rest; what didn't run is left out."""
        times = {name: median(seconds) for name, seconds in self.seconds.items()}
        again = times.pop(BOUND_AGAIN)
        kernels = [name for name in KERNELS if name in times]
        others = [name for name in ("eager", "compiled", "attention") if name in times]
        image = self.case.batch * self.case.image_channels * self.case.size**2 * self.case.dtype.itemsize
        traffic = 2 * image * self.case.copies(self.direction)
        return {
            "case": self.case.name,
            "direction": self.direction,
            "dtype": str(self.case.dtype).removeprefix("torch."),
            "milliseconds": {name: seconds * 1e3 for name, seconds in times.items()},
            "graph_milliseconds": {name: median(seconds) * 1e3 for name, seconds in self.graph_seconds.items()},
            "not_captured": self.uncaptured,
            "bound_spread": abs(again - times[BOUND]) / min(again, times[BOUND]),
            "clocks": self.clocks,
            "fastest_milliseconds": {name: min(self.seconds[name]) * 1e3 for name in times},
            "back_to_back_milliseconds": {name: seconds * 1e3 for name, seconds in self.queued.items()},
            "times_faster": {name: {other: times[other] / times[name] for other in others} for name in kernels},
            "over_bound": {name: times[name] / times[BOUND] for name in kernels},
            "triton_over_cuda": times["triton"] / times["cuda"] if len(kernels) == len(KERNELS) else None,
            "bytes": traffic,
            "flops": self.case.flops(self.direction),
            "bytes_per_second": {name: traffic / times[name] for name in (*kernels, BOUND)},
            "launches": {name: len(launched) for name, launched in self.kernels.items()},
            "kernels": {name: self.kernels[name] for name in kernels},
            "peak_bytes": self.peaks,
            "peak_over_eager": {name: self.peaks[name] / self.peaks["eager"] for name in kernels},
            "rounds": len(self.seconds["eager"]),
        }
