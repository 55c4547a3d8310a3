"""How much memory a function takes while it runs on the CPU, as torch's profiler counts it."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_beyond_results(function: Callable[[], tuple[torch.Tensor, ...]]) -> int:
    """Bytes of torch's allocator at the worst moment, beyond what was there before and what the function returns."""
    function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0
    ]
    taken = peak = 0
    for _, change in sorted(changes, key=lambda found: found[0]):
        taken += change
        peak = max(peak, taken)
    return peak - sum(result.numel() * result.element_size() for result in results)
