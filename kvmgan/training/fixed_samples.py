"""Pictures of fixed captions from fixed noise, written into a run folder over time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kvmgan.data.dataset import TextImageDataset
from kvmgan.figures.pictures import save_png
from kvmgan.figures.sample_grid import sample_grid
from kvmgan.figures.stage_strip import stage_strip
from kvmgan.models.generator import Generator, GeneratorOutput
from kvmgan.models.memory_watch import watch_memory
from kvmgan.pretraining.encoders import Encoders
from kvmgan.random_streams import normal_noise
from kvmgan.runs.run_folder import RunFolder

STRIP_ROWS = 4


@dataclass
class FixedSamples:
    """N test captions, encoded, their noise (N, Z) and the noise of their conditions (N, C)."""

    captions: list[str]
    words: Tensor
    sentence: Tensor
    mask: Tensor
    noise: Tensor
    condition_noise: Tensor

    @torch.no_grad()
    def draw(self, generator: Generator) -> GeneratorOutput:
        """All pictures by a generator in evaluation mode."""
        return generator(self.noise, self.sentence, self.words, self.mask, condition_noise=self.condition_noise)

    def watch(self, generator: Generator) -> dict[str, Tensor]:
        """Gates and addresses of the memory layers, by :func:`kvmgan.models.memory_watch.watch_memory`."""
        return watch_memory(generator, self.noise, self.sentence, self.words, self.mask, self.condition_noise)

    def save(self, generator: Generator, run: RunFolder, step: int) -> tuple[Path, Path]:
        """Write ``samples/step-<step>.png`` and ``stages/step-<step>.png``; returns their paths."""
        made = self.draw(generator)
        grid, strip = run.samples / f"step-{step:06d}.png", run.stages / f"step-{step:06d}.png"
        save_png(sample_grid(made.images[-1], self.captions), grid)
        save_png(stage_strip([images[:STRIP_ROWS] for images in made.images]), strip)
        return grid, strip


def fixed_samples(
    dataset: TextImageDataset, encoders: Encoders, dims: tuple[int, int], *, count: int, seed: int, device: torch.device
) -> FixedSamples:
    """The first usable captions of up to ``count`` pictures of a data set, spread evenly.

    Args:
        dims: lengths of the noise and of the condition, both drawn from the seed.
    """
    count = min(count, len(dataset))
    chosen = [number * len(dataset) // count for number in range(count)]
    captions = [dataset.usable_captions(index)[0] for index in chosen]
    encoded = [dataset.encode_caption(index, caption) for index, caption in zip(chosen, captions, strict=True)]
    drawn = normal_noise((count, sum(dims)), seed, "fixed samples").to(device)
    return FixedSamples(
        [dataset.records[index].captions[caption] for index, caption in zip(chosen, captions, strict=True)],
        *encoders.encode(torch.stack([tokens for tokens, _ in encoded]), torch.tensor([n for _, n in encoded])),
        *drawn.split(dims, dim=1),
    )
