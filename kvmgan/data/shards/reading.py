"""Samples of shards from end to end."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kvmgan.data.records import IMAGE_SUFFIXES
from kvmgan.data.shards.description import parse_description
from kvmgan.data.shards.index import Shard
from kvmgan.data.shards.library import webdataset
from kvmgan.errors import UserError


class StoredSample(NamedTuple):
    """A picture as it is stored, with what is known of it; index: its place in the split."""

    name: str
    image: bytes
    class_id: int
    captions: tuple[str, ...]
    box: tuple[float, ...] | None
    index: int


def read_stretch(shards: Sequence[Shard], order: Sequence[int], start: int, stop: int) -> Iterator[StoredSample]:
    """Yield samples `start` to `stop` of the shards one after the other in `order`; no other shard is opened.

    Raise `UserError` naming the shard that can't be read, is damaged, or holds another number of samples.
    """
    firsts = list(itertools.accumulate((shard.samples for shard in shards), initial=0))
    end = 0
    for place in order:
        begin, end = end, end + shards[place].samples
        if end <= start:
            continue
        if begin >= stop:
            return
        # Tar files have no list of their members: what comes before is read and passed over.
        samples = _read_shard(shards[place], firsts[place])
        # To its end, where the stretch goes on: only there it is seen whether the shard has more than it should.
        yield from itertools.islice(samples, max(0, start - begin), None if end <= stop else stop - begin)


def _read_shard(shard: Shard, first: int) -> Iterator[StoredSample]:
    library = webdataset()
    count = 0
    try:
        for sample in library.tarfile_samples([{"url": str(shard.path.absolute())}]):
            if count == shard.samples:
                raise UserError(f"the shard {shard.path} holds more than {count} samples: write the shards again")
            yield _stored(sample, f"{shard.path}/{sample['__key__']}", first + count)
            count += 1
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise UserError(f"the shard {shard.path} is damaged ({error}): copy it again") from None
    if count < shard.samples:
        raise UserError(f"the shard {shard.path} holds {count} samples, expected {shard.samples}: copy it again")


def _stored(sample: dict[str, bytes], name: str, index: int) -> StoredSample:
    suffix = next((suffix for suffix in sample if f".{suffix}" in IMAGE_SUFFIXES), None)
    if suffix is None or "json" not in sample:
        raise UserError(f"{name}: expected a picture ({', '.join(IMAGE_SUFFIXES)}) and a .json")
    _, class_id, captions, box = parse_description(sample["json"], f"{name}.json")
    return StoredSample(f"{name}.{suffix}", sample[suffix], class_id, captions, box, index)
