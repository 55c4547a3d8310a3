"""Prints the table of `pytest benchmarks/` and writes it as JSON: `python benchmarks/run.py --json results.json`."""

import argparse
import json
from pathlib import Path

import torch
from cases import CASES, DIRECTIONS
from report import describe_machine, format_table
from timing import Measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the machine and the results to")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    names = [case.name for case in CASES]
    parser.add_argument("--case", choices=names, action="append", help="only this case; may be repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = [case for case in CASES if arguments.case is None or case.name in arguments.case]
    summaries = [Measurement(case, direction).summary() for case in chosen for direction in DIRECTIONS]
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print("\n".join(format_table(summaries)))
    if arguments.json:
        temporary = arguments.json.with_suffix(".tmp")
        temporary.write_text(json.dumps({"machine": machine, "results": summaries}, indent=2) + "\n")
        temporary.replace(arguments.json)


if __name__ == "__main__":
    main()
