"""What a folder of shards holds, in its ``shards.json``: shards, samples and words.

::

    folder/
        shards.json
        train-000000.tar    000000000.jpg, 000000000.json, 000000001.jpg, ...: a picture, then what is known of it
        test-000000.tar
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmgan.data.records import Split
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import MissingFileError, UserError
from kvmgan.files import read_json, write_text

INDEX = "shards.json"
# Raise it when what shards hold is to be read in another way.
_VERSION = 1


@dataclass(frozen=True)
class Shard:
    """A tar file, how many samples it holds, and its size in bytes."""

    path: Path
    samples: int
    bytes: int


@dataclass(frozen=True)
class ShardedSplit:
    """The shards of a split in their order; digest: hash of keys, classes, captions, boxes and file sizes."""

    shards: tuple[Shard, ...]
    digest: str

    @property
    def samples(self) -> int:
        """How many samples the shards hold together."""
        return sum(shard.samples for shard in self.shards)

    def check(self) -> None:
        """Raise `UserError` naming the first shard that is missing or not as long as it was."""
        for shard in self.shards:
            try:
                found = shard.path.stat().st_size
            except OSError as error:
                raise MissingFileError(f"the shard {shard.path} can't be read: {error.strerror}") from None
            if found != shard.bytes:
                raise UserError(f"the shard {shard.path} has {found} bytes, expected {shard.bytes}: copy it again")


@dataclass(frozen=True)
class ShardIndex:
    """Both splits of a folder of shards, and the words of their captions."""

    splits: dict[Split, ShardedSplit]
    vocabulary: Vocabulary

    def save(self, folder: Path) -> None:
        """Write ``shards.json`` into `folder`; shards are named in it without their folder."""
        splits = {
            name: {
                "digest": split.digest,
                "shards": [{"name": s.path.name, "samples": s.samples, "bytes": s.bytes} for s in split.shards],
            }
            for name, split in self.splits.items()
        }
        content = {"version": _VERSION, "splits": splits, "words": self.vocabulary.words[1:]}
        write_text(folder / INDEX, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> ShardIndex:
        """Read what `save` wrote. Raise `UserError` when it is missing or something else, of a newer version, say."""
        path = folder / INDEX
        content = read_json(path, "the list of the shards")
        version = content.get("version") if isinstance(content, dict) else None
        if version != _VERSION:
            raise UserError(f"{path} has version {version}, expected {_VERSION}: write the shards again")
        try:
            splits: dict[Split, ShardedSplit] = {
                name: _read_split(folder, content["splits"][name]) for name in ("train", "test")
            }
            return cls(splits, Vocabulary(content["words"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no list of shards ({error!r}): write the shards again") from None


def _read_split(folder: Path, content: dict[str, Any]) -> ShardedSplit:
    shards = tuple(_read_shard(folder, shard) for shard in content["shards"])
    if not shards:
        raise ValueError("a split has no shards")
    return ShardedSplit(shards, str(content["digest"]))


def _read_shard(folder: Path, content: dict[str, Any]) -> Shard:
    name, samples, size = content["name"], content["samples"], content["bytes"]
    if Path(name).name != name:
        raise ValueError(f"{name} lies outside the folder")
    if not isinstance(samples, int) or samples < 1 or not isinstance(size, int):
        raise ValueError(f"{name} has {samples} samples in {size} bytes")
    return Shard(folder / name, samples, size)
