"""What a data set holds, and what of it is missing, broken or doubtful: every image is decoded and compared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from kvmgan.data.image_file import open_image, shown_size
from kvmgan.data.pixels import DECODING_ERRORS, crop_limits, decode, stored_side
from kvmgan.data.records import Record
from kvmgan.data.tokens import tokenize
from kvmgan.errors import MissingFileError, UserError

Kind = Literal["missing", "broken", "doubtful"]
# Beyond this, a square crop shows less than a third of an image.
_LONG = 3


@dataclass(frozen=True)
class Finding:
    """What is wrong with one file, or with something that it says."""

    kind: Kind
    text: str

    @classmethod
    def of(cls, problem: UserError) -> Finding:
        """What a reader had to say."""
        return cls("missing" if isinstance(problem, MissingFileError) else "broken", str(problem))


@dataclass(frozen=True)
class SplitCounts:
    """Numbers of a split: images, their captions and classes, and the words of the longest caption."""

    images: int
    captions: int
    classes: int
    longest: int

    @classmethod
    def of(cls, records: Sequence[Record]) -> SplitCounts:
        """The numbers of records."""
        captions = [caption for record in records for caption in record.captions]
        longest = max((len(tokenize(caption)) for caption in captions), default=0)
        return cls(len(records), len(captions), len({record.class_id for record in records}), longest)


def inspect_records(
    splits: Mapping[str, Sequence[Record]], size: int, progress: Callable[[], None]
) -> tuple[list[Finding], list[Record]]:
    """Decode every image; return what is wrong, in the order of the records, and the records that can be used.

    splits: records by the name of their split.
    size: side of the pictures that are to be trained on [pixels].
    progress: called after every image.
    """
    named = [(split, record) for split, records in splits.items() for record in records]
    findings: list[Finding] = []
    usable: list[Record] = []
    seen: dict[str, tuple[str, Record]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examined = pool.map(lambda item: _examine(item[1], size), named)
        for (split, record), (digest, found) in zip(named, examined, strict=True):
            findings += found
            if digest is not None:
                usable.append(record)
                first_split, first = seen.setdefault(digest, (split, record))
                if first is not record:
                    where = "the same split" if first_split == split else f"the {first_split} split"
                    text = f"{record.image_path} ({split}) is the same file as {first.image_path} in {where}"
                    findings.append(Finding("doubtful", text))
            progress()
    return findings, usable


def _examine(record: Record, size: int) -> tuple[str | None, list[Finding]]:
    """Return a digest of the image file, None where it can't be used, and what is wrong with the record."""
    path = record.image_path
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        decode(path, record.box, stored_side(size))
        with open_image(path) as image:
            width, height = shown_size(image, upright=record.box is None)
    except FileNotFoundError:
        return None, [Finding("missing", f"{path}, the image of {record.key}, is missing")]
    except DECODING_ERRORS as error:
        return None, [Finding("broken", f"{path} can't be decoded: {error}")]
    return digest, [Finding("doubtful", text) for text in (*_shape(record, width, height, size), *_captions(record))]


def _shape(record: Record, width: int, height: int, size: int) -> Iterator[str]:
    what = f"{record.image_path} is {width} x {height} pixels"
    if record.box is not None:
        left, top, right, bottom = crop_limits(record.box, width, height)
        width, height = right - left, bottom - top
        what += f", {width} x {height} around its box"
    if min(width, height) < size:
        yield f"{what}: it is enlarged for pictures of {size}"
    if max(width, height) > _LONG * min(width, height):
        yield f"{what}: a square crop shows a small part of it"


def _captions(record: Record) -> Iterator[str]:
    words = [tuple(tokenize(caption)) for caption in record.captions]
    if not all(words):
        empty = next(caption for caption, found in zip(record.captions, words, strict=True) if not found)
        yield f"{record.key} has the caption {empty!r}, in which there is no word of letters or digits of ASCII"
    if len(set(words)) < len(words):
        yield f"{record.key} has a caption more than once"
