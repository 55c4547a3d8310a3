"""How long the imports take beyond torch's own, each in fresh processes: `python benchmarks/imports.py`."""

import statistics
import subprocess
import sys

from report import describe_machine, line_up

MODULES = ("kvmem", "kvmgan")
ROUNDS = 7
SCRIPT = "import time, torch; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"


def seconds(module: str) -> float:
    """Of one import, in a process that has imported torch."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(module)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    print(", ".join(f"{name} {value}" for name, value in describe_machine().items()))
    rows = [[name, f"{statistics.median(seconds(name) for _ in range(ROUNDS)):.3f}"] for name in MODULES]
    print("\n".join(line_up([["import", "seconds beyond torch"], *rows])))


if __name__ == "__main__":
    main()
