"""The whole training step against a plain one of the same networks and losses: seconds, and peak memory.

`python benchmarks/training_step.py --json training.json` measures the preset cub's networks with the small image
encoder at batch 4, two threads; `pytest benchmarks/test_training.py` does the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from plain_training import PlainTraining
from report import describe_machine, line_up

from kvmgan.config import Options
from kvmgan.data.samples import Batch
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.presets import preset_options
from kvmgan.pretraining.encoders import Encoders, EncoderShape, build_image_encoder, build_text_encoder
from kvmgan.training.precision import Precision
from kvmgan.training.state import initial_state
from kvmgan.training.step import TrainingStep

# The first is the plain step; the others are the package's own in these precisions.
CONTENDERS = ("plain", "float32", "float32 compiled", "bfloat16", "bfloat16 compiled")
VOCABULARY = 5450
ROUNDS, WARMUP_ROUNDS = 7, 1


def options_for(contender: str, batch_size: int = 4) -> Options:
    """Preset cub with the small image encoder; the plain step has the eager memory layer."""
    options = preset_options("cub")
    model = options.model
    if contender == "plain":
        model = replace(model, memory=replace(model.memory, backend="eager"))
    precision = "float32" if contender == "plain" else contender.split(" ")[0]
    # The plain step has the order in memory that torch makes by itself.
    order = "contiguous" if contender == "plain" else "auto"
    compiled = contender.endswith("compiled")
    training = replace(
        options.training, batch_size=batch_size, precision=precision, memory_format=order, compile=compiled
    )
    return replace(options, model=model, damsm=replace(options.damsm, encoder="small"), training=training)


def make_step(contender: str, device: torch.device, batch_size: int = 4) -> Callable[[], object]:
    """A function that trains one step on a fixed batch."""
    options = options_for(contender, batch_size)
    encoders, batch = make_encoders(options).to(device), make_batch(options, batch_size).to(device)
    precision = Precision.choose(options.training.precision, device)
    state = initial_state(options.model, options.discriminator, options.training, options.damsm.word_dim, precision)
    if contender == "plain":
        nets = (state.generator, copy.deepcopy(state.generator).eval().requires_grad_(False), state.discriminators)
        plain = PlainTraining(*nets, encoders, options.training, options.damsm)
        return lambda: plain.step(batch)
    step = TrainingStep(encoders, options.training, options.damsm, precision)
    return lambda: step(state, batch)


def make_encoders(options: Options) -> Encoders:
    """Frozen encoders with random weights, for a vocabulary as large as CUB's."""
    shape = EncoderShape.of(options.damsm)
    torch.manual_seed(0)
    text, image = build_text_encoder(shape, VOCABULARY).eval(), build_image_encoder(shape).eval()
    words = Vocabulary(f"word{number}" for number in range(1, VOCABULARY))
    return Encoders(words, shape, text.requires_grad_(False), image.requires_grad_(False), None)


def make_batch(options: Options, batch_size: int) -> Batch:
    """Random pixels and captions of 8 to 18 words."""
    rng = torch.Generator().manual_seed(0)
    side, slots = options.sizes[-1], options.data.max_words
    pixels = torch.randint(0, 256, (batch_size, 3, side, side), generator=rng, dtype=torch.uint8)
    lengths = torch.randint(8, slots + 1, (batch_size,), generator=rng)
    tokens = torch.randint(1, VOCABULARY, (batch_size, slots), generator=rng)
    numbers = torch.arange(batch_size)
    tokens = tokens * (torch.arange(slots) < lengths[:, None])
    return Batch(pixels, tokens, lengths, numbers, numbers, torch.zeros_like(numbers))


def measure(
    device: torch.device, rounds: int = ROUNDS, batch_size: int = 4, contenders: Sequence[str] = CONTENDERS
) -> dict[str, list[float]]:
    """Contender -> seconds of each round; in a round each takes one step, so that what slows one slows all."""
    steps = {name: make_step(name, device, batch_size) for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARMUP_ROUNDS + rounds):
        for name, step in steps.items():
            start = perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= WARMUP_ROUNDS:
                seconds[name].append(perf_counter() - start)
    return seconds


def peak_memory(contender: str, device: torch.device, batch_size: int) -> int:
    """Bytes at most in use while three steps are taken, in a process of their own: the process's or the GPU's."""
    words = [sys.executable, __file__, "--peak", contender, "--device", device.type, "--batch-size", str(batch_size)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def print_peak(contender: str, device: torch.device, batch_size: int) -> None:
    """What `peak_memory` reads."""
    step = make_step(contender, device, batch_size)
    for _ in range(3):
        step()
    print(torch.cuda.max_memory_allocated() if device.type == "cuda" else _peak_of_process())


def _peak_of_process() -> int:
    """Bytes. Not getrusage's figure: a process begins there with that of the one that started it."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS, which counts in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def table(seconds: dict[str, list[float]], peaks: dict[str, int]) -> list[str]:
    """Lines of the table: one a contender."""
    plain = median(seconds["plain"])
    rows = [["step", "", "seconds", "x plain", "peak GiB"]]
    for name, measured in seconds.items():
        figures = f"{median(measured):.2f}", f"{plain / median(measured):.2f}", f"{peaks[name] / 2**30:.2f}"
        rows.append([name, "", *figures])
    return line_up(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure (default: cpu)")
    parser.add_argument("--batch-size", type=int, default=4, help="images in a batch (default: 4)")
    parser.add_argument("--contender", choices=CONTENDERS, action="append", help="only these beside plain")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"measured rounds (default: {ROUNDS})")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--json", type=Path, help="file to write the machine and the results to")
    parser.add_argument("--peak", choices=CONTENDERS, help="print this one's peak memory in bytes, and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.peak:
        return print_peak(arguments.peak, device, arguments.batch_size)
    contenders = ["plain", *(arguments.contender or CONTENDERS[1:])]
    seconds = measure(device, arguments.rounds, arguments.batch_size, contenders)
    peaks = {name: peak_memory(name, device, arguments.batch_size) for name in contenders}
    machine = describe_machine() | {"threads": arguments.threads, "batch_size": arguments.batch_size}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print("\n".join(table(seconds, peaks)))
    if arguments.json:
        record = {"machine": machine, "seconds": seconds, "peak_bytes": peaks}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
