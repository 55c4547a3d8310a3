"""Pictures of fixed captions from fixed noise, written into a run folder over time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kvmgan.config import Options
from kvmgan.data.dataset import TextImageDataset
from kvmgan.figures.pictures import save_png
from kvmgan.figures.sample_grid import sample_grid
from kvmgan.figures.stage_strip import stage_strip
from kvmgan.models.generator import Generator, GeneratorOutput
from kvmgan.training.encoders import Encoders
from kvmgan.training.run_folder import RunFolder

STRIP_ROWS = 4


@dataclass
class FixedSamples:
    """N test captions, encoded, and their noise (N, Z)."""

    captions: list[str]
    words: Tensor
    sentence: Tensor
    mask: Tensor
    noise: Tensor

    @torch.no_grad()
    def draw(self, generator: Generator) -> GeneratorOutput:
        """All pictures by a generator in evaluation mode."""
        return generator(self.noise, self.sentence, self.words, self.mask)

    def save(self, generator: Generator, run: RunFolder, step: int) -> tuple[Path, Path]:
        """Write ``samples/step-<step>.png`` and ``stages/step-<step>.png``; returns their paths."""
        made = self.draw(generator)
        grid, strip = run.samples / f"step-{step:06d}.png", run.stages / f"step-{step:06d}.png"
        save_png(sample_grid(made.images[-1], self.captions), grid)
        save_png(stage_strip([images[:STRIP_ROWS] for images in made.images]), strip)
        return grid, strip


def fixed_samples(
    dataset: TextImageDataset, encoders: Encoders, options: Options, device: torch.device
) -> FixedSamples:
    """Captions spread evenly over the test images; the noise is drawn from ``training.seed``."""
    count = min(options.training.sample_count, len(dataset))
    chosen = [number * len(dataset) // count for number in range(count)]
    encoded = [dataset.encode_caption(index, 0) for index in chosen]
    tokens = torch.stack([tokens for tokens, _ in encoded]).to(device)
    lengths = torch.tensor([length for _, length in encoded], device=device)
    source = torch.Generator().manual_seed(options.training.seed)
    return FixedSamples(
        [dataset.records[index].captions[0] for index in chosen],
        *encoders.encode(tokens, lengths),
        torch.randn(count, options.model.noise_dim, generator=source).to(device),
    )
