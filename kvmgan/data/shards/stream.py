"""Batches of shards: the same ones whatever the number of processes and workers, each of which reads its own shards.

Every epoch puts the shards in another order, one behind the other, and cuts that row into as many equal stretches as
there are lanes. A lane reads its stretch from end to end, mixes a window of it at a time, and fills its own rows of
every batch. Lanes are shared out among processes by the rows that these make, and in a process among its workers.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import torch

from kvmgan.data.batches import check_stream
from kvmgan.data.pixels import DECODING_ERRORS, decode, reason
from kvmgan.data.samples import Batch, Sample, collate, encode_usable
from kvmgan.data.shards.images import ShardedImages
from kvmgan.data.shards.reading import StoredSample, read_stretch
from kvmgan.data.workers import load_by_workers
from kvmgan.errors import UserError
from kvmgan.random_streams import numpy_stream

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Drawn:
    """A place of a mixed window, in an epoch."""

    epoch: int
    window: list[StoredSample]
    place: int

    def candidates(self) -> Iterator[StoredSample]:
        """Yield the sample, then those that may stand for it, should it turn out to be damaged."""
        yield from itertools.chain(self.window[self.place :], self.window[: self.place])


class ShardStream:
    """An endless stream of training batches of shards whose position is the step, as that of `BatchStream` is.

    An epoch shows no picture twice; what doesn't fill a batch at its end is left out, other pictures in every epoch.
    lanes: how many there are, the greatest divisor of the batch that is no larger than was asked for.
    """

    def __init__(
        self,
        images: ShardedImages,
        batch_size: int,
        *,
        seed: int,
        purpose: str,
        workers: int = 0,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Take and raise what `BatchStream` does; of more `workers` than lanes the surplus isn't started."""
        check_stream(len(images), batch_size, workers)
        self.images, self.batch_size, self.seed, self.purpose = images, batch_size, seed, purpose
        self.rows = list(range(batch_size) if rows is None else rows)
        self.steps_per_epoch = len(images) // batch_size
        self.lanes = max(lanes for lanes in range(1, images.lanes + 1) if batch_size % lanes == 0)
        self._share = batch_size // self.lanes
        self._rows_of: defaultdict[int, list[int]] = defaultdict(list)
        for row in self.rows:
            self._rows_of[row // self._share].append(row)
        self.workers = min(workers, len(self._rows_of))
        self._reported: set[str] = set()

    def iterate(self, start_step: int) -> Iterator[Batch]:
        """Yield the batches of steps `start_step`, `start_step` + 1, ... without end, on the host.

        The framework's random states are left alone. Raise `UserError` for a shard that is damaged, missing or of
        another length, and when no picture of a window can be used.
        """
        if self.workers == 0:
            pieces = self.pieces(start_step, 0, 1)
        else:
            pieces = load_by_workers(_Pieces(self, start_step), self.workers, batch_size=None)
        # The loader takes from its workers in turn: one piece of each makes a step.
        count = max(1, self.workers)
        while True:
            yield self._joined([next(pieces) for _ in range(count)])

    def pieces(self, start_step: int, worker: int, workers: int) -> Iterator[tuple[list[int], Batch]]:
        """Yield, step by step, the rows of one of so many workers and their samples."""
        lanes = sorted(self._rows_of)[worker::workers]
        rows = [row for lane in lanes for row in self._rows_of[lane]]
        for of_lanes in zip(*(self._lane(lane, start_step) for lane in lanes), strict=True):
            drawn = dict(zip(lanes, of_lanes, strict=True))
            yield rows, collate([self._sample(drawn[row // self._share][row % self._share]) for row in rows])

    def _joined(self, pieces: Sequence[tuple[list[int], Batch]]) -> Batch:
        """One batch of the pieces, its rows in their order."""
        place = {row: number for number, row in enumerate(row for rows, _ in pieces for row in rows)}
        order = torch.tensor([place[row] for row in self.rows])
        parts = [vars(batch) for _, batch in pieces]
        return Batch(**{name: torch.cat([part[name] for part in parts])[order] for name in parts[0]})

    def _lane(self, lane: int, start_step: int) -> Iterator[list[_Drawn]]:
        """Yield what each step draws of a lane, a sample for each of its rows in the whole batch."""
        start_epoch, first = divmod(start_step, self.steps_per_epoch)
        for epoch in itertools.count(start_epoch):
            drawn = self._stretch(epoch, lane, first * self._share)
            for _ in range(first, self.steps_per_epoch):
                yield list(itertools.islice(drawn, self._share))
            first = 0

    def _stretch(self, epoch: int, lane: int, done: int) -> Iterator[_Drawn]:
        """Yield a lane's stretch of an epoch, mixed a window at a time, without the first `done` samples."""
        shards, size = self.images.split.shards, self.images.window
        length = self.steps_per_epoch * self._share
        order = numpy_stream(self.seed, f"{self.purpose} order", epoch).permutation(len(shards)).tolist()
        begun = done // size
        start = lane * length
        stored = read_stretch(shards, order, start + begun * size, start + length)
        for number in range(begun, -(-length // size)):
            window = list(itertools.islice(stored, size))
            mixed = numpy_stream(self.seed, f"{self.purpose} window", epoch, lane, number).permutation(len(window))
            window = [window[place] for place in mixed.tolist()]
            for place in range(max(0, done - number * size), len(window)):
                yield _Drawn(epoch, window, place)

    def _sample(self, drawn: _Drawn) -> Sample:
        """The picture as it looks in its epoch; one that can't be used is reported, and the next stands for it."""
        problems = []
        for stored in drawn.candidates():
            usable = encode_usable(stored.captions, self.images.vocabulary)
            if not usable:
                problems.append(self._report(stored, "none of its captions holds a known word"))
                continue
            try:
                pixels = decode(BytesIO(stored.image), stored.box, self.images.stored_side)
            except DECODING_ERRORS as error:
                problems.append(self._report(stored, reason(error)))
                continue
            rng = numpy_stream(self.seed, f"{self.purpose} sample", drawn.epoch, stored.index)
            return self.images.view.random(pixels, usable, stored.class_id, stored.index, rng)
        raise UserError(f"none of {len(problems)} pictures in a row is usable; the first is {problems[0]}")

    def _report(self, stored: StoredSample, problem: str) -> str:
        if stored.name not in self._reported:
            self._reported.add(stored.name)
            _log.warning("skipping %s: %s", stored.name, problem)
        return f"{stored.name}: {problem}"


class _Pieces(torch.utils.data.IterableDataset):
    """The pieces of a stream in a worker process."""

    def __init__(self, stream: ShardStream, start_step: int) -> None:
        self._stream, self._start_step = stream, start_step

    def __iter__(self) -> Iterator[tuple[list[int], Batch]]:
        worker = torch.utils.data.get_worker_info()
        for rows, batch in self._stream.pieces(self._start_step, worker.id, worker.num_workers):
            yield rows, batch.share_memory_()
