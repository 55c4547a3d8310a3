"""CUDA graphs of calls: what is left of a call when the host launches all of it at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

WARMUP_CALLS = 3


@contextmanager
def measuring_stream() -> Iterator[None]:
    """Everything on one stream that isn't the default one: only there can a call be captured, its backward included."""
    before, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield
    before.wait_stream(stream)


def captured(functions: dict[str, Callable[[], object]]) -> tuple[dict[str, Callable[[], None]], dict[str, str]]:
    """Name -> the replay of a call; and name -> why, for calls that can't be captured. On `measuring_stream`."""
    replays: dict[str, Callable[[], None]] = {}
    reasons: dict[str, str] = {}
    for name, function in functions.items():
        try:
            replays[name] = _capture(function)
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return replays, reasons


def _capture(function: Callable[[], object]) -> Callable[[], None]:
    for _ in range(WARMUP_CALLS):
        function()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        function()
    return graph.replay
