"""How far pictures of runs differ from real drawings in what the eye sees first: grids, rims, washed-out outlines.

python tools/picture_faults.py RUN...

Each figure is a ratio to that of the real test drawings, 1 being theirs, over 500 test captions:

grid: power at periods of 2 to 2.7 pixels along either axis, which upsampling leaves behind and outlines hardly have.
rim: difference of the outermost ring's mean colour to that of the ring four pixels further in.
edges: root mean square of the brightness's gradient, which blurred outlines have less of.
flat: share of pixels whose surroundings (3x3) differ by less than 4 of 255: drawings are mostly flat.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kvmgan.command_line import default_cache_dir, run_command
from kvmgan.data.pixels import to_bytes
from kvmgan.errors import UserError
from kvmgan.models.inference import for_inference
from kvmgan.training.checkpoint import load_checkpoint
from kvmgan.training.datasets import own_test_split
from kvmgan.training.fixed_samples import fixed_samples, real_pictures

COUNT = 500
Pixels = NDArray[np.float64]


def grid(pictures: Pixels) -> float:
    """Mean power at high frequencies along one axis, of brightness under a Hann window."""
    side = pictures.shape[1]
    window = np.hanning(side)
    grey = pictures.mean(axis=3)
    grey = (grey - grey.mean(axis=(1, 2), keepdims=True)) * window[:, None] * window
    power = np.abs(np.fft.rfft2(grey)) ** 2
    low, first = side // 16, 3 * side // 8
    across = power[:, :low, first:].mean()
    along = power[:, first : side // 2 + 1, :low].mean()
    return float(across + along)


def rim(pictures: Pixels) -> float:
    """Mean absolute difference of the colours of two rings."""

    def ring(inset: int) -> Pixels:
        inner = pictures[:, inset : pictures.shape[1] - inset, inset : pictures.shape[2] - inset]
        sides = [inner[:, 0], inner[:, -1], inner[:, :, 0], inner[:, :, -1]]
        return np.concatenate(sides, axis=1)

    return float(np.abs(ring(0).mean(axis=1) - ring(4).mean(axis=1)).mean())


def edges(pictures: Pixels) -> float:
    """Root mean square of the gradient of brightness: the mean would be the same however an outline is spread."""
    down, right = np.gradient(pictures.mean(axis=3), axis=(1, 2))
    return float(np.sqrt((down**2 + right**2).mean()))


def flat(pictures: Pixels) -> float:
    """Share of pixels in flat surroundings."""
    windows = np.lib.stride_tricks.sliding_window_view(pictures.mean(axis=3), (3, 3), axis=(1, 2))
    return float((windows.max(axis=(3, 4)) - windows.min(axis=(3, 4)) < 4).mean())


FAULTS = {"grid": grid, "rim": rim, "edges": edges, "flat": flat}


@torch.no_grad()
def drawn_and_real(run: Path) -> tuple[Pixels, Pixels]:
    """Pictures (COUNT, s, s, 3) of test captions, 0 to 255, and the drawings that the captions were written for."""
    checkpoint = load_checkpoint(run)
    options, encoders = checkpoint.options, checkpoint.encoders()
    test, _ = own_test_split(options, default_cache_dir(), encoders.vocabulary)
    dims = options.model.noise_dim, options.model.condition_dim
    samples = fixed_samples(test.limited(options.evaluation.max_words), encoders, dims, count=COUNT, seed=1)
    made = to_bytes(samples.draw(for_inference(checkpoint.generator())).images[-1]).permute(0, 2, 3, 1)
    real = np.stack([np.asarray(picture, dtype=np.float64) for picture in real_pictures(test, COUNT)])
    return made.double().numpy(), real


def main(runs: Sequence[str]) -> None:
    if not runs:
        raise UserError("no run: name one or several run folders or checkpoints")
    print(f"{'':<24}" + "".join(f"{name:>8}" for name in FAULTS))
    for run in map(Path, runs):
        made, real = drawn_and_real(run)
        figures = "".join(f"{fault(made) / fault(real):8.2f}" for fault in FAULTS.values())
        print(f"{run.name:<24}{figures}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
