"""Shards from records of any layout."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from kvmgan.data.pixels import DECODING_ERRORS, decode, reason
from kvmgan.data.records import Record, Split
from kvmgan.data.samples import encode_usable
from kvmgan.data.shards.description import describe
from kvmgan.data.shards.index import Shard, ShardedSplit, ShardIndex
from kvmgan.data.shards.library import webdataset
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.files import atomic_folder
from kvmgan.random_streams import numpy_stream

# The order of training pictures on disk: never the classes one after the other.
_ORDER_SEED = 0
_SIDE_TO_TRY = 64


def write_shards(
    folder: Path,
    splits: Mapping[Split, Sequence[Record]],
    vocabulary: Vocabulary | None,
    samples_a_shard: int,
    progress: Callable[[], None],
) -> list[tuple[Path, str]]:
    """Write all records into `folder`, their files' bytes unchanged: whole, or nothing of it.

    Training pictures come in a shuffled order, the same at every call, test pictures in their own.

    vocabulary: what the data brings along; None collects the words of the captions, train then test.
    progress: called after every record.
    Return path and reason of every picture that was left out: it can't be decoded, or no caption holds a known word.
    Raise `UserError` when the folder has something in it, can't be written, a split would be empty, or webdataset isn't
    installed.
    """
    library = webdataset()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and isn't empty: name another folder for the shards")
    if vocabulary is None:
        vocabulary = Vocabulary.build(c for records in splits.values() for record in records for c in record.captions)
    skipped: list[tuple[Path, str]] = []
    try:
        with atomic_folder(folder) as temporary:
            written: dict[Split, ShardedSplit] = {}
            for name, records in splits.items():
                ordered = _shuffled(records) if name == "train" else records
                usable = _usable(ordered, vocabulary, skipped, progress)
                written[name] = _write_split(library, temporary, name, usable, samples_a_shard)
            ShardIndex(written, vocabulary).save(temporary)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
    return skipped


def _shuffled(records: Sequence[Record]) -> list[Record]:
    order = numpy_stream(_ORDER_SEED, "shard order").permutation(len(records)).tolist()
    return [records[place] for place in order]


def _usable(
    records: Sequence[Record], vocabulary: Vocabulary, skipped: list[tuple[Path, str]], progress: Callable[[], None]
) -> Iterator[tuple[Record, bytes]]:
    """Yield the records that can be trained on, each with the bytes of its file."""
    for record in records:
        problem, content = _look_at(record, vocabulary)
        if problem is None:
            yield record, content
        else:
            skipped.append((record.image_path, problem))
        progress()


def _look_at(record: Record, vocabulary: Vocabulary) -> tuple[str | None, bytes]:
    if not encode_usable(record.captions, vocabulary):
        return "none of its captions holds a known word", b""
    try:
        decode(record.image_path, record.box, _SIDE_TO_TRY)
        return None, record.image_path.read_bytes()
    except DECODING_ERRORS as error:
        return reason(error), b""


def _write_split(
    library: ModuleType, folder: Path, name: Split, samples: Iterator[tuple[Record, bytes]], samples_a_shard: int
) -> ShardedSplit:
    digest, shards, numbered = hashlib.sha256(), [], enumerate(samples)
    while (first := next(numbered, None)) is not None:
        path, written = folder / f"{name}-{len(shards):06d}.tar", 0
        # The same records make the same bytes: the time of writing isn't kept.
        with library.TarWriter(str(path), encoder=False, mtime=0) as writer:
            for number, (record, content) in itertools.chain([first], itertools.islice(numbered, samples_a_shard - 1)):
                suffix = record.image_path.suffix[1:].lower()
                writer.write({"__key__": f"{number:09d}", suffix: content, "json": describe(record)})
                digest.update(repr((record.key, record.class_id, record.captions, record.box, len(content))).encode())
                written += 1
        shards.append(Shard(path, written, path.stat().st_size))
    if not shards:
        raise UserError(f"none of the {name} images is usable")
    return ShardedSplit(tuple(shards), digest.hexdigest())
