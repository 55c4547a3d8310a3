"""Records by their places, decoded: any of them at any time."""

from __future__ import annotations

import copy
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kvmgan.data.pixels import DECODING_ERRORS, decode, read_kept_shape, reason, stored_side
from kvmgan.data.prepared import PreparedImages
from kvmgan.data.records import Record
from kvmgan.data.samples import Sample, View, encode_usable, pad
from kvmgan.data.vocabulary import Vocabulary, select_words
from kvmgan.errors import UserError

_MEMORY_LIMIT = 2 * 1024**3
# Bytes of memory that an image needs which was prepared.
_MAPPED = 0
_log = logging.getLogger(__name__)


class TextImageDataset:
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
        memory_limit: int = _MEMORY_LIMIT,
        progress: Callable[[int, int], None] | None = None,
        prepared: PreparedImages | None = None,
    ) -> None:
        """Encode the captions and decode the images.

        sizes: sides of the square images in pixels, ascending, one a stage.
        max_words: words of a caption that are kept (T).
        memory_limit: bytes; if all pixels need more, images are decoded whenever they are asked for.
        progress: called with the number of images read and the total.
        prepared: images that were decoded before, at this size; they need no memory and are read from there.

        An image that cannot be decoded, or whose captions hold no known word, is left out and listed in `skipped`.
        Raises `UserError` for impossible sizes or `max_words`, and when no record is usable.
        """
        if not sizes or min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise UserError(f"sizes={list(sizes)}: expected ascending positive sizes in pixels")
        check_max_words(max_words)
        self.vocabulary, self.sizes, self.max_words = vocabulary, tuple(sizes), max_words
        self._side = stored_side(self.sizes[-1])
        self.skipped: list[tuple[Path, str]] = []
        described = self._encode_captions(records)
        self._prepared = prepared
        self._load(described, memory_limit, progress)
        if not self.records:
            raise UserError(self._nothing_usable(len(records)))

    def __len__(self) -> int:
        """Return the number of usable records."""
        return len(self.records)

    @property
    def decoded_on_demand(self) -> int:
        """How many images are neither in memory nor prepared."""
        return sum(kept is None and not mapped for kept, mapped in zip(self._pixels, self._is_mapped, strict=True))

    def limited(self, max_words: int) -> TextImageDataset:
        """Return the same records and pixels with another word limit; nothing is decoded or copied, `skipped` is one.

        Raises `UserError` when `max_words` is below 1.
        """
        check_max_words(max_words)
        other = copy.copy(self)
        other.max_words = max_words
        return other

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return record `index` with a crop, facing and caption drawn from `rng`, and random words of a long caption.

        A function of the index and the state of `rng` alone. Raises IndexError when there is no such record.
        """
        index, pixels = self._readable(index)
        return self._view().random(pixels, self._encoded[index], self.records[index].class_id, index, rng)

    def evaluation_sample(self, index: int, caption_index: int) -> Sample:
        """Return the centre of image `index` with caption `caption_index`, counted around those that can be encoded.

        Of a long caption it keeps the first words. Raises IndexError when there is no such record.
        """
        index, pixels = self._readable(index)
        class_id = self.records[index].class_id
        return self._view().centre(pixels, self._encoded[index], class_id, index, caption_index)

    def described(self) -> Iterator[str]:
        """Yield what tells these pictures and captions from others."""
        for record in self.records:
            size = record.image_path.stat().st_size
            yield repr((record.key, record.class_id, record.captions, record.box, size))

    def usable_captions(self, index: int) -> list[int]:
        """Return the indices of the captions of record `index` that hold a known word, ascending, at least one."""
        return list(self._encoded[index])

    def encode_caption(self, index: int, caption_index: int) -> tuple[Tensor, int]:
        """Return the tokens (T,) int64 of a caption, padded with 0, and how many they are; a long one is cut.

        Raises `UserError` when the caption holds no known word, IndexError when there is no such record or caption.
        """
        caption = self.records[index].captions[caption_index]
        return pad(select_words(self.vocabulary.encode(caption), self.max_words, None), self.max_words)

    def _view(self) -> View:
        return View(self.sizes[-1], self.max_words)

    def _encode_captions(self, records: Sequence[Record]) -> list[tuple[Record, dict[int, list[int]]]]:
        """Return the records with a usable caption, each with the words of its usable captions by caption index."""
        described = []
        for record in records:
            encoded = encode_usable(record.captions, self.vocabulary)
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
    ) -> None:
        """Set `records` to those whose image can be read, `_pixels` to their pixels, None where they stay on disk."""
        records = [record for record, _ in described]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results: list[int | str | NDArray[np.uint8]] = list(pool.map(self._bytes_of, records))
            if sum(result for result in results if isinstance(result, int)) < memory_limit:
                read = pool.map(self._keep, records, results)
            else:
                # The headers tell what can be decoded later.
                read = iter(results)
            for number, result in enumerate(read):
                results[number] = result
                if progress is not None:
                    progress(number + 1, len(records))
        good = [number for number, result in enumerate(results) if not isinstance(result, str)]
        for record, result in zip(records, results, strict=True):
            if isinstance(result, str):
                self.skipped.append((record.image_path, result))
        self.records = [records[number] for number in good]
        self._encoded = [described[number][1] for number in good]
        kept = [results[number] for number in good]
        self._pixels = [None if isinstance(result, int) else result for result in kept]
        self._is_mapped = [isinstance(result, int) and result == _MAPPED for result in kept]

    def _bytes_of(self, record: Record) -> int | str:
        """Return how many bytes of memory the pixels of a record will take, or why they cannot be read."""
        if self._prepared is not None and record in self._prepared:
            return self._prepared.reason(record) or _MAPPED
        try:
            height, width = read_kept_shape(record.image_path, record.box, self._side)
        except DECODING_ERRORS as error:
            return reason(error)
        return 3 * height * width

    def _keep(self, record: Record, needed: int | str) -> NDArray[np.uint8] | int | str:
        """Return the pixels of a record that needs memory and can be read, else what is known of it."""
        return needed if isinstance(needed, str) or needed == _MAPPED else self._decode(record)

    def _decode(self, record: Record) -> NDArray[np.uint8] | str:
        """Return the pixels of a record or why they cannot be read."""
        try:
            return decode(record.image_path, record.box, self._side)
        except DECODING_ERRORS as error:
            return reason(error)

    def _readable(self, index: int) -> tuple[int, NDArray[np.uint8]]:
        """Return the pixels of record `index`, or of the next record whose image can be read, with its index.

        Only images that are decoded on demand can fail here: they are then counted in `skipped`, too
        (with worker processes, in the worker's copy of the dataset).
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the {len(self)} records")
        for candidate in itertools.chain(range(index, len(self)), range(index)):
            result = self._pixels_of(candidate)
            if not isinstance(result, str):
                return candidate, result
            entry = (self.records[candidate].image_path, result)
            if entry not in self.skipped:
                self.skipped.append(entry)
                _log.warning("skipping %s: %s", *entry)
        raise UserError(self._nothing_usable(len(self.records)))

    def _pixels_of(self, index: int) -> NDArray[np.uint8] | str:
        """Return the pixels of record `index`, from memory, from what was prepared or from its file, or why not."""
        if self._is_mapped[index]:
            return self._prepared.pixels(self.records[index])
        kept = self._pixels[index]
        return self._decode(self.records[index]) if kept is None else kept

    def _nothing_usable(self, total: int) -> str:
        if not self.skipped:
            return "the data set is empty: it holds no record"
        path, reason = self.skipped[0]
        return f"none of the {total} images is usable; the first is {path}: {reason}"


def check_max_words(max_words: int) -> None:
    """Raise `UserError` when it is below 1."""
    if max_words < 1:
        raise UserError(f"max_words={max_words}: expected at least 1")
