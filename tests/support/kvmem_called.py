"""How often a call runs the fused operators, through torch.func and torch.compile too."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def operators(run: Callable[[], object], namespace: str = "kvmem") -> tuple[int, int]:
    """How often the fused forward and backward operators run."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    counts = {event.key: event.count for event in seen.key_averages()}
    return counts.get(f"{namespace}::kv_memory", 0), counts.get(f"{namespace}::kv_memory_backward", 0)
