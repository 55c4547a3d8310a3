"""The measurements that the benchmarks share, and the table at the end of `pytest benchmarks/`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# The modules beside this file are no package: run.py imports them the same way.
sys.path.insert(0, str(Path(__file__).parent))

from cases import Case
from gpu_cases import COMPILED_CASES
from gpu_report import bars, describe_gpu, format_bars, format_gpu_table
from gpu_timing import GpuMeasurement
from report import describe_machine, format_table
from timing import Measurement

THREADS = 2
MEASUREMENTS = pytest.StashKey[dict[tuple[str, str], Measurement]]()
GPU_MEASUREMENTS = pytest.StashKey[dict[tuple[str, str], GpuMeasurement]]()


@pytest.fixture(scope="session", autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def measure(pytestconfig: pytest.Config) -> Callable[[Case, str], Measurement]:
    """Measures a case in one direction, all contenders together, once a session."""
    measurements = pytestconfig.stash.setdefault(MEASUREMENTS, {})

    def measured(case: Case, direction: str) -> Measurement:
        key = case.name, direction
        if key not in measurements:
            measurements[key] = Measurement(case, direction)
        return measurements[key]

    return measured


@pytest.fixture(scope="session")
def measure_on_gpu(pytestconfig: pytest.Config) -> Callable[[Case, str], GpuMeasurement]:
    """As `measure`, on the GPU."""
    measurements = pytestconfig.stash.setdefault(GPU_MEASUREMENTS, {})

    def measured(case: Case, direction: str) -> GpuMeasurement:
        key = case.name, direction
        if key not in measurements:
            measurements[key] = GpuMeasurement(case, direction, case.name in COMPILED_CASES)
        return measurements[key]

    return measured


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    measurements = config.stash.get(MEASUREMENTS, {})
    if measurements:
        machine = {**describe_machine(), "threads": THREADS}
        summaries = [measurement.summary() for measurement in measurements.values()]
        _print(terminalreporter, "fused layer against eager and torch.compile", machine, format_table(summaries))
    gpu_measurements = config.stash.get(GPU_MEASUREMENTS, {})
    if gpu_measurements:
        summaries = [measurement.summary() for measurement in gpu_measurements.values()]
        lines = [*format_gpu_table(summaries), *format_bars(bars(summaries))]
        _print(terminalreporter, "fused layer on the GPU", describe_gpu(), lines)


def _print(terminalreporter: pytest.TerminalReporter, title: str, machine: dict, lines: list[str]) -> None:
    terminalreporter.section(title)
    terminalreporter.write_line(", ".join(f"{name} {value}" for name, value in machine.items()))
    for line in lines:
        terminalreporter.write_line(line)
