"""Markdown tables and a roofline plot from the record of `run.py --device cuda`.

`python benchmarks/plot.py gpu.json --tables tables.md --roofline docs/roofline.png`
"""

import argparse
import json
from pathlib import Path

from gpu_report import Summary, gpu_rows

MARKERS = {"float32": "o", "bfloat16": "s", "float16": "^"}
FILLED = {"cuda": True, "triton": False}
COLOURS = {"forward": "tab:blue", "backward": "tab:orange", "forward + backward": "tab:green"}


def markdown_table(rows: list[list[str]]) -> list[str]:
    """The rows, titles first, as lines of a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def markdown(record: dict) -> str:
    """The bars and the results of a record, with the machine on the first line."""
    machine = record["machine"]
    runtime = f"CUDA {machine['cuda']}" if machine["cuda"] else f"ROCm {machine['hip']}"
    lines = [f"{machine['device']}, torch {machine['torch']}, {runtime}, commit {machine['commit']}", ""]
    bars = [["bar", "value", "at most", "at least", "met"]]
    for bar in record["bars"]:
        bounds = ("" if bar[key] is None else str(bar[key]) for key in ("at_most", "at_least"))
        bars.append([bar["bar"], f"{bar['value']:.3g}", *bounds, "yes" if bar["met"] else "no"])
    return "\n".join([*lines, *markdown_table(bars), "", *markdown_table(gpu_rows(record["results"]))]) + "\n"


def points(results: list[Summary], kernels: str) -> list[tuple[str, str, float, float]]:
    """Direction, dtype, intensity in FLOPs a byte and rate in FLOPs a second of the layer by some kernels."""
    found = []
    for result in results:
        rate = result["bytes_per_second"].get(kernels)
        if rate is not None:
            intensity = result["flops"] / result["bytes"]
            found.append((result["direction"], result["dtype"], intensity, intensity * rate))
    return found


def draw_roofline(record: dict, target: Path) -> None:
    """Writes the plot: the roofs are the fastest copy and the matrix products that the same run measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bandwidth = max(result["bytes_per_second"]["bound"] for result in record["results"])
    figure, axes = pyplot.subplots(figsize=(7, 5))
    # float16 runs on the same units as bfloat16.
    for dtype in ("float32", "bfloat16"):
        rate = record["machine"]["gemm_flops_per_second"][dtype]
        corners = (1, rate / bandwidth, 1000)
        axes.plot(corners, [min(rate, bandwidth * x) for x in corners], color="grey", linewidth=1)
        axes.annotate(f"torch.mm {dtype}", (corners[-1], rate), ha="right", va="bottom", fontsize=8)
    for kernels, filled in FILLED.items():
        for direction, dtype, intensity, rate in points(record["results"], kernels):
            colour = COLOURS[direction]
            face = colour if filled else "none"
            axes.scatter(intensity, rate, marker=MARKERS[dtype], edgecolors=colour, facecolors=face, s=18)
        axes.scatter([], [], edgecolors="black", facecolors="black" if filled else "none", label=kernels)
    for label, colour in COLOURS.items():
        axes.scatter([], [], color=colour, label=label)
    for label, marker in MARKERS.items():
        axes.scatter([], [], color="black", marker=marker, label=label)
    axes.set(xscale="log", yscale="log", xlabel="FLOPs a byte of unavoidable traffic", ylabel="FLOPs a second")
    axes.set_title(f"kvmem on {record['machine']['device']}; copy: {bandwidth / 1e12:.2f} TB/s")
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(target, dpi=150)


def read_record(path: Path) -> dict:
    """The record of a GPU.

    Raises:
        SystemExit: the file can't be read, or holds something else, such as the record of a CPU; in one line.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} can't be read: {error}") from None
    if not isinstance(record, dict) or not {"machine", "bars", "results"} <= record.keys():
        raise SystemExit(f"{path} isn't the record of a GPU: expected what run.py --device cuda --json writes")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="what run.py wrote")
    parser.add_argument("--tables", type=Path, help="Markdown file to write; printed where not given")
    parser.add_argument("--roofline", type=Path, help="picture to write")
    arguments = parser.parse_args()
    record = read_record(arguments.record)
    if arguments.tables:
        arguments.tables.write_text(markdown(record))
    else:
        print(markdown(record), end="")
    if arguments.roofline:
        draw_roofline(record, arguments.roofline)


if __name__ == "__main__":
    main()
