"""Captions that are drawn again and again during a run, from noise that stays the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.samples import pad
from kvmgan.data.vocabulary import select_words
from kvmgan.models.generator import Generator, GeneratorOutput
from kvmgan.models.memory_watch import watch_memory
from kvmgan.pretraining.encoders import Encoders
from kvmgan.random_streams import normal_noise


@dataclass
class FixedSamples:
    """N captions, encoded, their noise (N, Z) and the noise of their conditions (N, C).

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


def encode_samples(
    captions: Sequence[str], encoders: Encoders, max_words: int, noise: Tensor, dims: tuple[int, int]
) -> FixedSamples:
    """Captions of the noise (N, Z + C), which may be on any device; each holds a known word.

    Args:
        max_words: words kept of a caption, the first ones.
        dims: Z and C, lengths of the noise and of the condition.
    """
    vocabulary = encoders.vocabulary
    padded = [pad(select_words(vocabulary.encode(caption), max_words, None), max_words) for caption in captions]
    words, sentence, mask = encoders.encode(
        torch.stack([tokens for tokens, _ in padded]), torch.tensor([length for _, length in padded])
    )
    return FixedSamples(
        list(captions),
        [[vocabulary.words[token] for token in tokens[:length].tolist()] for tokens, length in padded],
        words,
        sentence,
        mask,
        *noise.to(sentence.device).split(dims, dim=1),
    )


def fixed_samples(
    dataset: TextImageDataset, encoders: Encoders, dims: tuple[int, int], *, count: int, seed: int
) -> FixedSamples:
    """The first usable captions of up to ``count`` pictures of a data set, spread evenly.

    Args:
        dims: lengths of the noise and of the condition, both drawn from the seed.
    """
    places = sample_places(dataset, count)
    captions = [dataset.records[place].captions[dataset.usable_captions(place)[0]] for place in places]
    drawn = normal_noise((len(places), sum(dims)), seed, "fixed samples")
    return encode_samples(captions, encoders, dataset.max_words, drawn, dims)


def real_pictures(dataset: TextImageDataset, count: int) -> list[Image.Image]:
    """The real pictures of :func:`fixed_samples`, their centres, as large as the model draws."""
    pixels = [dataset.evaluation_sample(place, 0).pixels for place in sample_places(dataset, count)]
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in pixels]


def sample_places(dataset: TextImageDataset, count: int) -> list[int]:
    """Places of up to ``count`` records, spread evenly."""
    count = min(count, len(dataset))
    return [number * len(dataset) // count for number in range(count)]
