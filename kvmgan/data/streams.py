"""The training batches of a data set, in the way that it is stored."""

from __future__ import annotations

from collections.abc import Sequence

from kvmgan.data.batches import BatchStream
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.shards.images import ShardedImages
from kvmgan.data.shards.stream import ShardStream

Images = TextImageDataset | ShardedImages
Stream = BatchStream | ShardStream


def training_stream(
    images: Images, batch_size: int, *, seed: int, purpose: str, workers: int = 0, rows: Sequence[int] | None = None
) -> Stream:
    """Return the stream of records that are read at random, or of shards that are read from end to end.

    Take and raise what `BatchStream` does.
    """
    kind = ShardStream if isinstance(images, ShardedImages) else BatchStream
    return kind(images, batch_size, seed=seed, purpose=purpose, workers=workers, rows=rows)
