"""Pictures of fixed captions from fixed noise, written into a run folder over time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from kvmgan.data.dataset import TextImageDataset
from kvmgan.figures.attention_maps import attention_maps
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
    """N test captions, encoded, their noise (N, Z) and the noise of their conditions (N, C).

    texts: the words of each caption as the model reads them.
    """

    captions: list[str]
    texts: list[list[str]]
    words: Tensor
    sentence: Tensor
    mask: Tensor
    noise: Tensor
    condition_noise: Tensor

    @torch.no_grad()
    def draw(self, generator: Generator, *, return_attention: bool = False) -> GeneratorOutput:
        """All pictures by a generator in evaluation mode."""
        return generator(
            self.noise,
            self.sentence,
            self.words,
            self.mask,
            condition_noise=self.condition_noise,
            return_attention=return_attention,
        )

    def watch(self, generator: Generator) -> dict[str, Tensor]:
        """Gates and addresses of the memory layers, by :func:`kvmgan.models.memory_watch.watch_memory`."""
        return watch_memory(generator, self.noise, self.sentence, self.words, self.mask, self.condition_noise)

    def save(self, generator: Generator, run: RunFolder, step: int) -> dict[str, Image.Image]:
        """Write ``step-<step>.png`` into ``samples/``, ``stages/`` and, of models that attend to words, ``attention/``.

        The last is of the first caption. Returns the pictures by their folder's name.
        """
        made = self.draw(generator, return_attention=True)
        pictures = {
            run.samples: sample_grid(made.images[-1], self.captions),
            run.stages: stage_strip([images[:STRIP_ROWS] for images in made.images]),
        }
        if made.attention:
            pictures[run.attention] = attention_maps(made.images[-1][0], made.attention[-1][0], self.texts[0])
        for folder, picture in pictures.items():
            save_png(picture, folder / f"step-{step:06d}.png")
        return {folder.name: picture for folder, picture in pictures.items()}


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
        [[dataset.vocabulary.words[token] for token in tokens[:length].tolist()] for tokens, length in encoded],
        *encoders.encode(torch.stack([tokens for tokens, _ in encoded]), torch.tensor([n for _, n in encoded])),
        *drawn.split(dims, dim=1),
    )
