"""Tar shards as records, each picture read where it lies: for looking at data, and for test splits."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from kvmgan.data.records import IMAGE_SUFFIXES, Record, Split, check_split, collected
from kvmgan.data.shards.description import parse_description
from kvmgan.data.shards.index import Shard, ShardIndex
from kvmgan.data.tar_member import TarMember
from kvmgan.errors import UserError


def read_shards(
    root: Path, split: Split, encoding: str | None = None, problems: list[UserError] | None = None
) -> list[Record]:
    """Return the records of one split, in the order of the shards; the headers and descriptions of all are read.

    ``encoding`` has no meaning here: shards are in UTF-8. Raise `UserError` naming the shard that is missing, cut
    short or of another thing; ``problems``, where it is given, takes what is wrong with single pictures instead.
    """
    check_split(split)
    shards = ShardIndex.load(Path(root)).splits[split]
    shards.check()
    records = []
    for shard in shards.shards:
        before = len(records)
        for picture, description in _pairs(shard):
            with collected(problems):
                where = str(description)
                key, class_id, captions, box = parse_description(description.read_bytes(), where)
                records.append(Record(key, picture, class_id, captions, box))
        if problems is None and len(records) - before != shard.samples:
            raise UserError(f"the shard {shard.path} holds {len(records) - before} pictures, expected {shard.samples}")
    return records


def _pairs(shard: Shard) -> Iterator[tuple[TarMember, TarMember]]:
    """Yield picture and description of every sample."""
    members: dict[str, dict[str, TarMember]] = {}
    try:
        with tarfile.open(shard.path, "r:") as archive:
            for info in archive:
                stem, _, suffix = info.name.partition(".")
                kind = "picture" if f".{suffix.lower()}" in IMAGE_SUFFIXES else suffix.lower()
                member = TarMember(shard.path, info.name, info.offset_data, info.size)
                members.setdefault(stem, {})[kind] = member
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"the shard {shard.path} is damaged ({error}): copy it again") from None
    for sample in members.values():
        if {"picture", "json"} <= set(sample):
            yield sample["picture"], sample["json"]
