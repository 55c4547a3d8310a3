"""Birds as shards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvmgan.data.records import Record
from kvmgan.data.shards.images import ShardedImages
from kvmgan.data.shards.index import ShardIndex
from kvmgan.data.shards.writing import write_shards


@pytest.fixture
def shards(tmp_path: Path, birds_records: list[Record]) -> Path:
    """Shards of five: 19 birds for training, five to test on."""
    folder = tmp_path / "shards"
    splits = {"train": birds_records[:19], "test": birds_records[19:]}
    assert write_shards(folder, splits, None, 5, lambda: None) == []
    return folder


@pytest.fixture
def make_images(shards: Path) -> Callable[..., ShardedImages]:
    """Training pictures of 32 pixels, with any option changed."""

    def make(**options: object) -> ShardedImages:
        index = ShardIndex.load(shards)
        settings = {"sizes": (16, 32), "max_words": 8, "lanes": 2, "window": 3, **options}
        return ShardedImages(index.splits["train"], index.vocabulary, **settings)

    return make
