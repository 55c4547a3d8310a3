"""Prints the tables of `pytest benchmarks/` and writes them as JSON.

`python benchmarks/run.py --json cpu.json`; on a GPU `python benchmarks/run.py --device cuda --json gpu.json`.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import torch
from cases import ALL_CASES, CASES, DIRECTIONS, Case
from gpu_cases import COMPILED_CASES, GPU_CASES, GPU_DIRECTIONS, KERNELS
from gpu_report import bars, describe_gpu, format_bars, format_gpu_table
from gpu_timing import GpuMeasurement, gemm_rates
from report import describe_machine, format_table
from timing import Measurement

import kvmem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure (default: cpu)")
    parser.add_argument("--json", type=Path, help="file to write the machine and the results to")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--all", action="store_true", help="on a CPU: many more shapes, about twenty minutes")
    parser.add_argument("--isa", default="auto", help="on a CPU: instruction set of the kernels (default: the widest)")
    names = [case.name for case in (*ALL_CASES, *GPU_CASES)]
    parser.add_argument(
        "--case", choices=names, action="append", metavar="NAME", help="only this case; may be repeated"
    )
    parser.add_argument(
        "--torch-compile",
        choices=["bars", "none", "only"],
        default="bars",
        help="on a GPU: compile for the shapes of the bars (default), for none, or measure those shapes alone",
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="on a GPU: begin no case after this time")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    (run_on_gpu if arguments.device == "cuda" else run_on_cpu)(arguments)


def chosen(cases: tuple, arguments: argparse.Namespace) -> list:
    return [case for case in cases if arguments.case is None or case.name in arguments.case]


def run_on_cpu(arguments: argparse.Namespace) -> None:
    if kvmem.backends()["cpu"].available:
        try:
            torch.ops.kvmem.cpu_isa(arguments.isa)
        except RuntimeError as error:
            raise SystemExit(f"--isa: {error}") from None
    machine = describe_machine()
    summaries: list[dict] = []
    cases = chosen(ALL_CASES if arguments.all or arguments.case else CASES, arguments)
    for case, direction in product(cases, DIRECTIONS):
        summaries.append(Measurement(case, direction).summary())
        write(arguments.json, {"machine": machine, "results": summaries})
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print("\n".join(format_table(summaries)))


def run_on_gpu(arguments: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU here")
    start = time.monotonic()
    machine = {**describe_gpu(), "gemm_flops_per_second": gemm_rates()}
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    summaries: list[dict] = []
    failures: list[str] = []
    # The cases of the bars first: they are what a run that ends early must have.
    cases = sorted(chosen(GPU_CASES, arguments), key=lambda case: case.name not in COMPILED_CASES)
    for case, direction in product(cases, GPU_DIRECTIONS):
        of_bars = case.name in COMPILED_CASES
        if time.monotonic() - start < arguments.seconds and (of_bars or arguments.torch_compile != "only"):
            compiled = of_bars and arguments.torch_compile != "none"
            summaries += measured(case, direction, compiled, failures)
            print(f"{time.monotonic() - start:.0f} s: {case.name}, {direction}", flush=True)
            record = {"machine": machine, "bars": bars(summaries), "failures": failures, "results": summaries}
            write(arguments.json, record)
    print("\n".join([*format_gpu_table(summaries), *format_bars(bars(summaries))]))
    if failures:
        raise SystemExit("\n".join(["these failed:", *failures]))


def measured(case: Case, direction: str, compiled: bool, failures: list[str]) -> list[dict]:
    """The summary; none where it failed, and failures say why."""
    # Triton's kernels, which compile on the spot, don't cost the CUDA kernels their figures.
    both = all(kvmem.backends()[name].available for name in KERNELS)
    for kernels in (KERNELS, ("cuda",)) if both else (KERNELS,):
        try:
            return [GpuMeasurement(case, direction, compiled, kernels).summary()]
        # One case that fails doesn't cost the others: for want of memory, by a wrong result, by a compiler's error.
        except Exception as error:
            words = " ".join(str(error).split())[:300]
            failures.append(f"{case.name}, {direction}, {' and '.join(kernels)}: {type(error).__name__}: {words}")
    return []


def write(path: Path | None, record: dict) -> None:
    """Writes a whole file or none."""
    if path:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        temporary.replace(path)


if __name__ == "__main__":
    main()
