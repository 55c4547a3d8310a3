"""Records as tensors: images at every scale with one caption."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kvmgan.data.pixels import DECODING_ERRORS, crop, decode, kept_shape, stored_side, to_scales
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary, select_words
from kvmgan.errors import UserError

_MEMORY_LIMIT = 2 * 1024**3
_log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One image with one caption; the fields of `Batch` without the batch dimension."""

    images: list[Tensor]
    tokens: Tensor
    length: int
    class_id: int
    index: int
    caption_index: int


@dataclass
class Batch:
    """B images with one caption each.

    images: per stage, in ascending size, (B, 3, s, s) float32 in [-1, 1].
    tokens: (B, T) int64, 0 is padding; T is `max_words` in every batch.
    lengths: (B,) int64, words of each caption, at least 1.
    class_ids, indices, caption_indices: (B,) int64, class, position in ``dataset.records`` and which of its captions.
    """

    images: list[Tensor]
    tokens: Tensor
    lengths: Tensor
    class_ids: Tensor
    indices: Tensor
    caption_indices: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`; copies from pinned memory don't block."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        moved["images"] = [image.to(device, non_blocking=True) for image in self.images]
        moved.update({name: t.to(device, non_blocking=True) for name, t in moved.items() if isinstance(t, Tensor)})
        return Batch(**moved)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (called by `torch.utils.data.DataLoader`)."""
        pinned = {field.name: getattr(self, field.name) for field in fields(self)}
        pinned["images"] = [image.pin_memory() for image in self.images]
        pinned.update({name: tensor.pin_memory() for name, tensor in pinned.items() if isinstance(tensor, Tensor)})
        return Batch(**pinned)

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, True where the slot holds a word."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch."""
    numbers = torch.tensor([sample[2:] for sample in samples], dtype=torch.int64)
    lengths, class_ids, indices, caption_indices = numbers.t().contiguous().unbind()
    images = [torch.stack(scale) for scale in zip(*(sample.images for sample in samples), strict=True)]
    tokens = torch.stack([sample.tokens for sample in samples])
    return Batch(images, tokens, lengths, class_ids, indices, caption_indices)


class TextImageDataset(torch.utils.data.Dataset):
    """Records as `Sample`s.

    records: the usable records. skipped: path and reason of every image that was left out.
    """

    def __init__(
        self,
        records: Sequence[Record],
        vocabulary: Vocabulary,
        *,
        sizes: Sequence[int],
        max_words: int,
        train: bool,
        seed: int = 0,
        memory_limit: int = _MEMORY_LIMIT,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Encode the captions and decode the images.

        sizes: sides of the square images in pixels, ascending, one a stage.
        max_words: words of a caption that are kept (T).
        train: random crop, flip, caption and, for a caption longer than `max_words`, random words, drawn from
            ``numpy.random.default_rng((seed, epoch, index))``: the same whatever the order, resume or worker count.
            Else the centre, the first caption and its first words.
        memory_limit: bytes; if all pixels need more, images are decoded whenever they are asked for.
        progress: called with the number of images read and the total.

        An image that cannot be decoded, or whose captions hold no known word, is left out and listed in `skipped`.
        Raises `UserError` for impossible sizes or `max_words`, and when no record is usable.
        """
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise UserError(f"sizes={list(sizes)}: expected ascending positive sizes in pixels")
        if max_words < 1:
            raise UserError(f"max_words={max_words}: expected at least 1")
        self.vocabulary, self.sizes, self.max_words, self.train = vocabulary, tuple(sizes), max_words, train
        self.seed, self.epoch = seed, 0
        self._side = stored_side(self.sizes[-1])
        self.skipped: list[tuple[Path, str]] = []
        described = self._encode_captions(records)
        self._pixels = self._load(described, memory_limit, progress)
        if not self.records:
            raise UserError(self._nothing_usable(len(records)))

    def __len__(self) -> int:
        """Return the number of usable records."""
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Return record `index` as it looks in the epoch set by `set_epoch`."""
        return self.sample(index, self.epoch)

    @property
    def keeps_pixels(self) -> bool:
        """Whether all pixels are in memory; else every image is decoded whenever it is asked for."""
        return self._pixels is not None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random crops and captions ``dataset[index]`` draws."""
        self.epoch = epoch

    def sample(self, index: int, epoch: int) -> Sample:
        """Return record `index` as it looks in `epoch`. A pure function of the two and the seed."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the {len(self)} records")
        index, pixels = self._readable(index)
        usable = list(self._encoded[index])
        if not self.train:
            return self._make(index, usable[0], crop(pixels, self.sizes[-1], 0.5, 0.5), None)
        rng = np.random.default_rng((self.seed, epoch, index))
        vertical, horizontal, side, which = rng.random(4).tolist()
        square = crop(pixels, self.sizes[-1], vertical, horizontal)
        if side < 0.5:
            square = square[:, ::-1]
        return self._make(index, usable[int(which * len(usable))], square, rng)

    def evaluation_sample(self, index: int, caption_index: int) -> Sample:
        """Return the centre of image `index` with caption `caption_index`, counted around those that can be encoded."""
        index, pixels = self._readable(index)
        usable = list(self._encoded[index])
        return self._make(index, usable[caption_index % len(usable)], crop(pixels, self.sizes[-1], 0.5, 0.5), None)

    def encode_caption(self, index: int, caption_index: int) -> tuple[Tensor, int]:
        """Return the tokens (T,) int64 of a caption, padded with 0, and how many they are; a long one is cut.

        Raises `UserError` when the caption holds no known word, IndexError when there is no such record or caption.
        """
        caption = self.records[index].captions[caption_index]
        return self._pad(select_words(self.vocabulary.encode(caption), self.max_words, None))

    def _make(self, index: int, caption_index: int, square: NDArray, rng: np.random.Generator | None) -> Sample:
        words = select_words(self._encoded[index][caption_index], self.max_words, rng)
        tokens, length = self._pad(words)
        images = to_scales(square, self.sizes)
        return Sample(images, tokens, length, self.records[index].class_id, index, caption_index)

    def _pad(self, words: list[int]) -> tuple[Tensor, int]:
        return torch.tensor(words + [0] * (self.max_words - len(words)), dtype=torch.int64), len(words)

    def _encode_captions(self, records: Sequence[Record]) -> list[tuple[Record, dict[int, list[int]]]]:
        """Return the records with a usable caption, each with the words of its usable captions by caption index."""
        described = []
        for record in records:
            encoded = {}
            for caption_index, caption in enumerate(record.captions):
                try:
                    encoded[caption_index] = self.vocabulary.encode(caption)
                except UserError:
                    continue
            if encoded:
                described.append((record, encoded))
            else:
                self.skipped.append((record.image_path, "none of its captions holds a known word"))
        return described

    def _load(
        self,
        described: list[tuple[Record, dict[int, list[int]]]],
        memory_limit: int,
        progress: Callable[[int, int], None] | None,
    ) -> list[NDArray[np.uint8]] | None:
        """Set `records` to those whose image can be read; return their pixels, or None if memory can't hold them."""
        total = len(described)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            needed = [result if isinstance(result, int) else 0 for result in pool.map(self._bytes_of, described)]
            fits = sum(needed) < memory_limit
            results = []
            for result in pool.map(self._decode if fits else self._bytes_of, described):
                results.append(result)
                if progress is not None:
                    progress(len(results), total)
        good = [number for number, result in enumerate(results) if not isinstance(result, str)]
        for (record, _), result in zip(described, results, strict=True):
            if isinstance(result, str):
                self.skipped.append((record.image_path, result))
        self.records = [described[number][0] for number in good]
        self._encoded = [described[number][1] for number in good]
        return [results[number] for number in good] if fits else None

    def _bytes_of(self, item: tuple[Record, dict[int, list[int]]]) -> int | str:
        """Return how many bytes the pixels of a record will take, from the file's header, or why it cannot be read."""
        try:
            with Image.open(item[0].image_path) as image:
                height, width = kept_shape(*image.size, item[0].box, self._side)
        except DECODING_ERRORS as error:
            return _reason(error)
        return 3 * height * width

    def _decode(self, item: tuple[Record, dict[int, list[int]]]) -> NDArray[np.uint8] | str:
        """Return the pixels of a record or why they cannot be read."""
        try:
            return decode(item[0].image_path, item[0].box, self._side)
        except DECODING_ERRORS as error:
            return _reason(error)

    def _readable(self, index: int) -> tuple[int, NDArray[np.uint8]]:
        """Return the pixels of record `index`, or of the next record whose image can be read, with its index.

        Only images that are decoded on demand can fail here: they are then counted in `skipped`, too
        (with worker processes, in the worker's copy of the dataset).
        """
        if self._pixels is not None:
            return index, self._pixels[index]
        for candidate in [*range(index, len(self)), *range(index)]:
            result = self._decode((self.records[candidate], {}))
            if not isinstance(result, str):
                return candidate, result
            entry = (self.records[candidate].image_path, result)
            if entry not in self.skipped:
                self.skipped.append(entry)
                _log.warning("skipping %s: %s", *entry)
        raise UserError(self._nothing_usable(len(self.records)))

    def _nothing_usable(self, total: int) -> str:
        if not self.skipped:
            return "the data set is empty: it holds no record"
        path, reason = self.skipped[0]
        return f"none of the {total} images is usable; the first is {path}: {reason}"


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    return f"the image cannot be decoded ({error})"
