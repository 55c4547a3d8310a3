"""Drawing with a generator of the paper's size (64, 128 and 256 pixels) against its modules put together plainly.

`python benchmarks/sampling.py --json sampling.json`: milliseconds a picture on two threads, medians of interleaved
rounds, and by how much the pictures differ from the plain ones.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from plain_training import plain_generator
from report import describe_machine, line_up
from torch import nn

import kvmem
from kvmgan.models.generator import Generator
from kvmgan.models.inference import for_inference

BATCHES = {1: 9, 8: 5}  # pictures at once -> rounds
LEVELS = 127.5  # of 255, from -1 to 1


def make_generator() -> Generator:
    """Random weights, and statistics of the normalisations unlike those they begin with."""
    torch.manual_seed(0)
    generator = Generator()
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return generator.eval().requires_grad_(False)


def make_contenders(generator: Generator, batch: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> a function that draws the same pictures, (batch, 3, 256, 256)."""
    plain = copy.deepcopy(generator)
    for module in plain.modules():
        if isinstance(module, kvmem.KVMemoryLayer):
            module.backend = "eager"
    inputs = [torch.randn(batch, *size) for size in ((100,), (256,), (18, 256), (100,))]
    mask = torch.ones(batch, 18, dtype=torch.bool)

    def drawing(made: Generator) -> Callable[[], torch.Tensor]:
        noise, sentence, words, condition = (tensor.to(made.conditioning.fc.weight.dtype) for tensor in inputs)
        return lambda: made(noise, sentence, words, mask, condition_noise=condition).images[-1]

    noise, sentence, words, condition = inputs
    return {
        "plain": lambda: plain_generator(plain, noise, sentence, words, mask, condition)[0][-1],
        "module": drawing(generator),
        "float32": drawing(for_inference(generator)),
        "bfloat16": drawing(for_inference(copy.deepcopy(generator).to(torch.bfloat16))),
    }


@torch.no_grad()
def measure(batch: int, rounds: int) -> list[dict[str, float | str]]:
    """A row for each contender."""
    contenders = make_contenders(make_generator(), batch)
    pictures = {name: draw().float() for name, draw in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, draw in contenders.items():
            start = perf_counter()
            draw()
            seconds[name].append(perf_counter() - start)
    plain = median(seconds["plain"])
    return [
        {
            "batch": batch,
            "contender": name,
            "ms_a_picture": median(seconds[name]) / batch * 1e3,
            "plain_over_this": plain / median(seconds[name]),
            "levels_of_255_off": (pictures[name] - pictures["plain"]).abs().mean().item() * LEVELS,
        }
        for name in contenders
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the machine and the results to")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for batch, rounds in BATCHES.items() for row in measure(batch, rounds)]
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    cells = [
        [str(row["batch"]), str(row["contender"]), *(f"{row[name]:.3g}" for name in list(row)[2:])] for row in rows
    ]
    print("\n".join(line_up([["batch", "contender", "ms a picture", "x plain", "levels off"], *cells])))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
