"""One image with one caption as tensors, and batches of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kvmgan.data.pixels import crop
from kvmgan.data.vocabulary import Vocabulary, select_words
from kvmgan.errors import UserError


class Sample(NamedTuple):
    """One image with one caption; the fields of `Batch` without the batch dimension."""

    pixels: Tensor
    tokens: Tensor
    length: int
    class_id: int
    index: int
    caption_index: int


@dataclass
class Batch:
    """B images with one caption each.

    pixels: (B, 3, S, S) uint8 at the largest size; `kvmgan.data.pixels.to_scales` makes every scale of them.
    tokens: (B, T) int64, 0 is padding; T is `max_words` in every batch.
    lengths: (B,) int64, words of each caption, at least 1; always on the host, so that no step waits for the device.
    class_ids, indices, caption_indices: (B,) int64, class, place in the split and which of its captions.
    """

    pixels: Tensor
    tokens: Tensor
    lengths: Tensor
    class_ids: Tensor
    indices: Tensor
    caption_indices: Tensor

    def moving(self) -> dict[str, Tensor]:
        """Return every tensor by its name but `lengths`, which stays where it is."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "lengths"}

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`, its lengths still on the host; copies from pinned memory don't block."""
        return replace(self, **{name: t.to(device, non_blocking=True) for name, t in self.moving().items()})

    def share_memory_(self) -> Batch:
        """Move all into memory that other processes see, and return the batch; raise RuntimeError where none is left.

        For a worker process: left to the queue between the processes, a want of memory would never be heard of.
        """
        for tensor in vars(self).values():
            tensor.share_memory_()
        return self

    def pin_memory(self) -> Batch:
        """Return the batch with all that moves in page-locked memory (called by `torch.utils.data.DataLoader`)."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self.moving().items()})


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch."""
    numbers = torch.tensor([sample[2:] for sample in samples], dtype=torch.int64)
    lengths, class_ids, indices, caption_indices = numbers.t().contiguous().unbind()
    pixels = torch.stack([sample.pixels for sample in samples])
    tokens = torch.stack([sample.tokens for sample in samples])
    return Batch(pixels, tokens, lengths, class_ids, indices, caption_indices)


def encode_usable(captions: Iterable[str], vocabulary: Vocabulary) -> dict[int, list[int]]:
    """Return the words of the captions that hold a known one, by the caption's place."""
    encoded = {}
    for place, caption in enumerate(captions):
        try:
            encoded[place] = vocabulary.encode(caption)
        except UserError:
            continue
    return encoded


def pad(words: list[int], max_words: int) -> tuple[Tensor, int]:
    """Return the words as tokens (T,) int64, padded with 0 to T = `max_words`, and how many they are."""
    return torch.tensor(words + [0] * (max_words - len(words)), dtype=torch.int64), len(words)


@dataclass(frozen=True)
class View:
    """What is seen of an image: a square of `size` pixels, at most `max_words` of a caption."""

    size: int
    max_words: int

    def random(
        self,
        pixels: NDArray[np.uint8],
        encoded: Mapping[int, list[int]],
        class_id: int,
        index: int,
        rng: np.random.Generator,
    ) -> Sample:
        """Return an image with a crop, facing and caption drawn from `rng`, and random words of a long caption.

        pixels: (H, W, 3), at least `size` high and wide. encoded: what `encode_usable` returns, not empty.
        """
        usable = list(encoded)
        vertical, horizontal, side, which = rng.random(4).tolist()
        square = crop(pixels, self.size, vertical, horizontal)
        if side < 0.5:
            square = square[:, ::-1]
        place = usable[int(which * len(usable))]
        return self._sample(square, select_words(encoded[place], self.max_words, rng), class_id, index, place)

    def centre(
        self, pixels: NDArray[np.uint8], encoded: Mapping[int, list[int]], class_id: int, index: int, caption: int
    ) -> Sample:
        """Return the centre of an image with the first words of a caption, counted around those in `encoded`."""
        usable = list(encoded)
        place = usable[caption % len(usable)]
        words = select_words(encoded[place], self.max_words, None)
        return self._sample(crop(pixels, self.size, 0.5, 0.5), words, class_id, index, place)

    def _sample(self, square: NDArray[np.uint8], words: list[int], class_id: int, index: int, caption: int) -> Sample:
        tokens, length = pad(words, self.max_words)
        # A copy, whatever the layout: the stored pixels must neither be shared nor stay mirrored.
        pixels = torch.from_numpy(square.transpose(2, 0, 1).copy())
        return Sample(pixels, tokens, length, class_id, index, caption)
