"""Predicts the CUDA kernels' times on GPUs from the built library and the kernels' plans: predicted, not measured.

`python tools/gpu_model.py` prints tables in Markdown, `--json FILE` also writes every prediction; both need a library
with CUDA kernels, cuobjdump and a C++ compiler, and no GPU. `--beside RECORD` needs none of them: it prints what
`benchmarks/run.py --json RECORD` measured beside the predictions that were written down before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

from gpu_chips import CHIPS, UNEVEN, Chip, chip_of
from gpu_clusters import predict_clusters
from gpu_general import predict_general
from gpu_persistent import persistent
from gpu_phases import EARLY_LAUNCH, FIRST_LAUNCH, NEXT_LAUNCH, Phase, Prediction
from gpu_plan import Launch, Shape, other_plans, plan
from machine_code import Kernel, architectures, find_tool, read_kernels

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "kvmem" / "_kernels.so"
RECORD = ROOT / "benchmarks" / "results" / "gpu-predicted.json"
SHAPES = tuple(
    Shape(batch, size, dtype, direction)
    for dtype, size, batch, direction in product(
        ("bfloat16", "float16", "float32"), (128, 64), (1, 10, 32, 64), ("forward", "backward")
    )
)
# The shapes of the table: those of the bars, and their like.
SHOWN = (
    Shape(32, 128, "bfloat16", "forward"),
    Shape(32, 128, "bfloat16", "backward"),
    Shape(32, 128, "float32", "forward"),
    Shape(32, 128, "float32", "backward"),
    Shape(10, 64, "bfloat16", "forward"),
    Shape(1, 64, "bfloat16", "forward"),
)

# More of them for a grid that outlives an image: many images, that stay on chip and that don't.
WHAT_IF = tuple(
    Shape(64, size, "bfloat16", direction) for size, direction in product((64, 128), ("forward", "backward"))
)


@dataclass(frozen=True)
class Bar:
    """What a prediction on an H100 is held to: times the copy, or microseconds."""

    shape: Shape
    most: float
    times_copy: bool = True


BARS = (
    Bar(SHOWN[0], 1.25),
    Bar(SHOWN[1], 1.6),
    Bar(SHOWN[2], 1.5),
    Bar(SHOWN[5], 12, times_copy=False),
)
UNKNOWN = (
    "whether clusters stay in step: the prediction is that all do, so that memory stands still while they compute; at "
    "best they drift apart freely. Two blocks of a multiprocessor start together: they share a wave's serial phase, "
    "and hide nothing from each other",
    "the serial phases to better than a factor of two: trip counts are read off the source by hand, latencies are "
    "others' measurements, how waits overlap is a guess",
    "how fast numbers that a block sends come in: a warp's to one block are taken as one transaction, and as 250 "
    "clocks to whoever waits for them",
    "what units reach together: in the main loop the busiest is taken at its full rate, without bank conflicts",
    "how many clusters run at a time, on which the plan depends too: how many multiprocessors a processing cluster has "
    "differs by part. An uneven H100, with 18, 18, 18, 16, 16, 16, 16 and 14 of them, takes 7 clusters of 16 blocks "
    "instead of 8, or 15 instead of 16",
    "clocks under load, and the driver: it takes boost clocks, 90 % of the data sheet's bandwidth for the kernels and "
    "the copy, 2 µs for a call's first launch, 1 µs for each other, half of it where that begins early",
    "what stays in the second-level cache: all that is read again, where it fits into three quarters of it",
    "the code that a driver makes: B200 is taken to run the instructions of sm_90, at Hopper's rate of matrix products",
    "trip counts of the general path (A100, RTX 4090), how its blocks overlap, and its sums' traffic: a rough figure",
)


def read_library(library: Path) -> dict[str, list[Kernel]]:
    """Kernels by architecture. Raises SystemExit, saying why, where they can't be read."""
    if not library.exists():
        raise SystemExit(f"{library}: there is no such library; build kvmem first (docs/install.md)")
    for tool in ("cuobjdump", "nvdisasm"):
        if find_tool(tool) is None:
            raise SystemExit(f"{tool} is not on the PATH, in /usr/local/cuda or in a triton package")
    wanted = sorted({chip.code for chip in CHIPS})
    missing = set(wanted) - set(architectures(library))
    if missing:
        raise SystemExit(
            f"{library} holds no machine code for {', '.join(sorted(missing))}: build kvmem with KVMEM_CUDA=1 and "
            f'KVMEM_CUDA_ARCHS="80;90"'
        )
    return {architecture: read_kernels(library, architecture) for architecture in wanted}


def predict(chip: Chip, shape: Shape, kernels: list[Kernel], launches: list[Launch] | None = None) -> Prediction:
    """kernels: the machine code that the chip runs; launches: those of the plan, unless others are given."""
    launches = launches or plan(chip, shape, kernels)
    cluster = launches[0].kernel.startswith("cluster")
    bound = FIRST_LAUNCH + shape.traffic / chip.copy_bandwidth
    path = "cluster" if cluster else "general"
    found = Prediction(chip.name, shape, path, len(launches), bound)
    following = sum(EARLY_LAUNCH if launch.early else NEXT_LAUNCH for launch in launches[1:])
    found.phases["launches"] = Phase(FIRST_LAUNCH + following, "launches")
    if cluster:
        predict_clusters(found, chip, launches, kernels)
    else:
        predict_general(found, chip, launches, kernels)
    return found


def fastest(chip: Chip, shape: Shape, kernels: list[Kernel]) -> Prediction:
    """With the number of blocks an image by which the model predicts the least time, whatever the plan says."""
    first, *rest = plan(chip, shape, kernels)
    others = other_plans(chip, shape, first, kernels)
    return min((predict(chip, shape, kernels, [other, *rest]) for other in others), key=lambda p: p.lockstep)


def predictions(kernels: dict[str, list[Kernel]]) -> list[Prediction]:
    return [predict(chip, shape, kernels[chip.code]) for chip in CHIPS for shape in SHAPES]


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


TITLES = ("chip", "case", "direction", "waves × clusters of blocks", "load", "serial", "loop", "store", "rest")
TITLES += ("predicted, µs", "at best", "copy", "predicted / copy", "faster", "limiter")


def markdown(found: list[Prediction], kernels: dict[str, list[Kernel]]) -> list[str]:
    """The table of the shown shapes, one row a chip and shape."""
    lines = ["| " + " | ".join(TITLES) + " |", "|" + "---|" * len(TITLES)]
    for prediction in sorted(found, key=lambda p: SHOWN.index(p.shape) if p.shape in SHOWN else -1):
        if prediction.shape in SHOWN:
            lines.append("| " + " | ".join(_cells(prediction, kernels)) + " |")
    return lines


def _cells(p: Prediction, kernels: dict[str, list[Kernel]]) -> list[str]:
    phases = ("load", "serial", "loop", "store")
    known = [microseconds(p.phases[name].seconds) if name in p.phases else "" for name in phases]
    rest = sum(phase.seconds for name, phase in p.phases.items() if name not in phases)
    waves = f"{p.waves} × {min(p.resident, p.shape.batch)} of {p.cluster}" if p.resident else "general"
    other = ""
    if p.resident:
        chip = chip_of(p.chip)
        best = fastest(chip, p.shape, kernels[chip.code])
        other = "" if best.lockstep > 0.99 * p.lockstep else f"{best.cluster}: {microseconds(best.lockstep)}"
    times = [microseconds(seconds) for seconds in (rest, p.lockstep, p.spread, p.bound)]
    return [
        p.chip,
        p.shape.case,
        p.shape.direction,
        waves,
        *known,
        *times,
        f"{p.lockstep / p.bound:.2f}",
        other,
        p.limiter,
    ]


def what_if(kernels: dict[str, list[Kernel]]) -> list[str]:
    """The table of a persistent grid, of shapes with more than one wave."""
    lines = ["| case | direction | chip | waves | predicted, µs | persistent grid | gain |", "|" + "---|" * 7]
    for shape in (*SHOWN[:4], *WHAT_IF):
        for chip in (chip_of(name) for name in ("H100", "H200", "B200")):
            found = predict(chip, shape, kernels[chip.code])
            if found.waves > 1:
                seconds = persistent(found, chip, plan(chip, shape, kernels[chip.code]), kernels[chip.code])
                cells = (shape.case, shape.direction, chip.name, str(found.waves), microseconds(found.lockstep))
                gain = f"{100 * (1 - seconds / found.lockstep):.1f} %"
                lines.append("| " + " | ".join((*cells, microseconds(seconds), gain)) + " |")
    return lines


def judge(kernels: dict[str, list[Kernel]]) -> list[dict[str, object]]:
    """The bars on an H100: value as predicted and at best, whether the prediction meets them, and how surely.

    uneven: predicted for a part whose processing clusters differ more in size. serial_times: how many times as long as
    estimated the serial phases may be for the bar to be met.
    """
    chip = chip_of("H100")
    uneven_chip = replace(chip, processing_clusters=UNEVEN)
    results = []
    for bar in BARS:
        p, uneven = (predict(part, bar.shape, kernels[chip.code]) for part in (chip, uneven_chip))
        scale = 1 / p.bound if bar.times_copy else 1e6
        value = p.lockstep * scale
        results.append(
            {
                "bar": f"{bar.shape.case}, {bar.shape.direction}, {'times the copy' if bar.times_copy else 'µs'}",
                "predicted": value,
                "at_best": p.spread * scale,
                "uneven": uneven.lockstep * scale,
                "serial_times": 1 + (bar.most - value) / scale / p.phases["serial"].seconds,
                "at_most": bar.most,
                "met": value <= bar.most,
            }
        )
    return results


def format_bars(bars: list[dict[str, object]]) -> list[str]:
    return [
        f"{'pass' if bar['met'] else 'FAIL'}  {bar['bar']}: predicted {bar['predicted']:.3g}, bar <= {bar['at_most']:g}"
        f"; at best {bar['at_best']:.3g}; on an uneven part {bar['uneven']:.3g}; "
        f"met up to {bar['serial_times']:.1f} times the serial phases"
        for bar in bars
    ]


def summary(p: Prediction) -> dict[str, object]:
    """A prediction for JSON: microseconds and bytes."""
    times = {"predicted": p.lockstep, "at_best": p.spread, "copy": p.bound}
    return {
        "chip": p.chip,
        "case": p.shape.case,
        "direction": p.shape.direction,
        **{f"{name}_microseconds": round(seconds * 1e6, 3) for name, seconds in times.items()},
        "limiter": p.limiter,
        "phases": {name: [round(phase.seconds * 1e6, 3), phase.limiter] for name, phase in p.phases.items()},
        **{
            key: getattr(p, key)
            for key in ("path", "launches", "waves", "resident", "cluster", "blocks", "instructions", "moved")
        },
    }


def write(path: Path, library: Path, found: list[Prediction], bars: list[dict[str, object]]) -> None:
    """All of it as JSON, a prediction a line, with the library that it was made from."""
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    head = {"title": "predicted, not measured", "library_sha256": digest, "unknown": UNKNOWN, "bars": bars}
    lines = ",\n".join(json.dumps(summary(p)) for p in found)
    path.write_text(json.dumps(head, indent=1).removesuffix("\n}") + f',\n "results": [\n{lines}\n]}}\n')


@lru_cache
def _predicted(path: Path) -> dict[tuple[str, str, str], dict]:
    """Results of a record by chip, case and direction."""
    return {(p["chip"], p["case"], p["direction"]): p for p in json.loads(path.read_text())["results"]}


def beside(measured: dict, predicted: Path) -> list[str]:
    """Lines: for each case that was measured, the kernels' and the copy's time, predicted and measured, in µs."""
    chip = chip_of(measured["machine"]["device"])
    if chip is None:
        return [f"no prediction: {measured['machine']['device']} is none of {', '.join(c.name for c in CHIPS)}"]
    lines = [f"{chip.name}, µs: what {predicted.name} predicted, perhaps of another build, and what was measured"]
    rows = [("case", "direction", "predicted", "at best", "measured", "ratio", "copy", "copy measured", "limiter")]
    for result in measured["results"]:
        p = _predicted(predicted).get((chip.name, result["case"], result["direction"]))
        times = result["milliseconds"]
        if p is None or "cuda" not in times:
            continue
        predicted_times = p["predicted_microseconds"], p["at_best_microseconds"]
        measured_time = times["cuda"] * 1e3
        numbers = (*predicted_times, measured_time, measured_time / predicted_times[0])
        numbers += (p["copy_microseconds"], times["bound"] * 1e3)
        rows.append((result["case"], result["direction"], *(f"{x:.2f}" for x in numbers), p["limiter"]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [*lines, *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=LIBRARY, help="the built library (default: kvmem's own)")
    parser.add_argument("--json", type=Path, help="file to write every prediction to")
    parser.add_argument("--beside", type=Path, metavar="RECORD", help="a GPU's record, to print beside predictions")
    parser.add_argument("--predicted", type=Path, default=RECORD, help="with --beside: what --json wrote before")
    arguments = parser.parse_args()
    if arguments.beside:
        print("\n".join(beside(json.loads(arguments.beside.read_text()), arguments.predicted)))
        return
    kernels = read_library(arguments.library)
    found, bars = predictions(kernels), judge(kernels)
    unknown = [f"- {line}" for line in UNKNOWN]
    print("\n".join(["Predicted, not measured.", "", *markdown(found, kernels), "", *format_bars(bars), ""]))
    print(
        "\n".join(
            ["A grid of as many clusters as run at a time, that goes on from image to image:", *what_if(kernels), ""]
        )
    )
    print("\n".join(["What it can't know:", *unknown]))
    if arguments.json:
        write(arguments.json, arguments.library, found, bars)


if __name__ == "__main__":
    main()
