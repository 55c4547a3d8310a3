"""The training pictures of shards: how many they are, and what is seen of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from kvmgan.data.dataset import check_max_words
from kvmgan.data.pixels import stored_side
from kvmgan.data.samples import View
from kvmgan.data.shards.index import ShardedSplit
from kvmgan.data.vocabulary import Vocabulary


class ShardedImages:
    """A split of shards that is read in the order of a stream, for which `TextImageDataset` would read at random.

    split: the shards. lanes, window: see `kvmgan.data.shards.stream`.
    """

    def __init__(
        self,
        split: ShardedSplit,
        vocabulary: Vocabulary,
        *,
        sizes: Sequence[int],
        max_words: int,
        lanes: int,
        window: int,
    ) -> None:
        """Take what `TextImageDataset` takes. Raise `UserError` when a shard is missing or has another length."""
        check_max_words(max_words)
        split.check()
        self.split, self.vocabulary, self.sizes, self.max_words = split, vocabulary, tuple(sizes), max_words
        self.lanes, self.window = lanes, window

    def __len__(self) -> int:
        """Return how many pictures there are."""
        return self.split.samples

    def limited(self, max_words: int) -> ShardedImages:
        """Return the same pictures with another word limit. Raise `UserError` when it is below 1."""
        check_max_words(max_words)
        other = copy.copy(self)
        other.max_words = max_words
        return other

    def described(self) -> Iterator[str]:
        """Yield what tells these pictures and captions from others, and the order in which they come."""
        yield f"{self.split.digest} {[shard.samples for shard in self.split.shards]} {self.lanes} {self.window}"

    @property
    def view(self) -> View:
        """What is seen of a picture and its caption."""
        return View(self.sizes[-1], self.max_words)

    @property
    def stored_side(self) -> int:
        """The shorter side that pictures are resized to before they are cropped [pixels]."""
        return stored_side(self.sizes[-1])
