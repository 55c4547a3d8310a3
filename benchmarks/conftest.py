"""The measurements that the benchmarks share, and the table at the end of `pytest benchmarks/`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# The modules beside this file are no package: run.py imports them the same way.
sys.path.insert(0, str(Path(__file__).parent))

from cases import Case
from report import describe_machine, format_table
from timing import Measurement

THREADS = 2
MEASUREMENTS = pytest.StashKey[dict[tuple[str, str], Measurement]]()


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    measurements = config.stash.get(MEASUREMENTS, {})
    if not measurements:
        return
    terminalreporter.section("fused layer against eager and torch.compile")
    machine = {**describe_machine(), "threads": THREADS}
    terminalreporter.write_line(", ".join(f"{name} {value}" for name, value in machine.items()))
    for line in format_table(measurement.summary() for measurement in measurements.values()):
        terminalreporter.write_line(line)
