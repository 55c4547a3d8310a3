"""Batches by position: which records make up step n never depends on what came before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.samples import Batch, Sample, collate
from kvmgan.data.workers import load_by_workers
from kvmgan.errors import UserError
from kvmgan.random_streams import numpy_stream


class BatchStream:
    """An endless stream of training batches whose position is the step.

    Every epoch goes through a permutation of the records; what doesn't fill a batch at its end is left out. The order
    and what varies about a record are drawn by seed, purpose, epoch and record: a resumed run sees the same data, and
    streams of different purposes see it in different ways.
    """

    def __init__(
        self,
        dataset: TextImageDataset,
        batch_size: int,
        *,
        seed: int,
        purpose: str,
        workers: int = 0,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Take batches of `batch_size` from `dataset`, made by so many `workers` (processes; 0: in this one).

        seed, purpose: of `kvmgan.random_streams`; the purpose names who draws, such as "damsm" or "train".
        rows: places of each batch that are made, by default all: where several processes share the batches.
        Raises `UserError` when the batch is empty or larger than the data, or there are fewer than no workers.
        """
        check_stream(len(dataset), batch_size, workers)
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers
        self.seed, self.purpose = seed, purpose
        self.rows = range(batch_size) if rows is None else rows
        self.steps_per_epoch = len(dataset) // batch_size

    def iterate(self, start_step: int) -> Iterator[Batch]:
        """Yield the batches of steps `start_step`, `start_step` + 1, ... without end, on the host.

        The framework's random states are left alone.
        """
        if self.workers == 0:
            for places in self._places(start_step):
                yield collate([self._sample(place) for place in places])
            return
        yield from load_by_workers(
            _Places(self),
            self.workers,
            batch_sampler=_Steps(self, start_step),
            collate_fn=_collate_shared,
            pin_memory=torch.cuda.is_available(),
        )

    def _places(self, start_step: int) -> Iterator[list[tuple[int, int]]]:
        """Yield epoch and index of every sample of each step."""
        start_epoch, first = divmod(start_step, self.steps_per_epoch)
        for epoch in itertools.count(start_epoch):
            order = numpy_stream(self.seed, f"{self.purpose} order", epoch).permutation(len(self.dataset)).tolist()
            for step in range(first, self.steps_per_epoch):
                start = step * self.batch_size
                yield [(epoch, order[start + row]) for row in self.rows]
            first = 0

    def _sample(self, place: tuple[int, int]) -> Sample:
        """Return the record at (epoch, index), as it looks in that epoch."""
        epoch, index = place
        return self.dataset.sample(index, numpy_stream(self.seed, f"{self.purpose} sample", epoch, index))


def _collate_shared(samples: Sequence[Sample]) -> Batch:
    return collate(samples).share_memory_()


class _Steps:
    """The batch sampler of a stream from a step on."""

    def __init__(self, stream: BatchStream, start_step: int) -> None:
        self._stream, self._start_step = stream, start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._stream._places(self._start_step)


class _Places(torch.utils.data.Dataset):
    """The samples of a stream by (epoch, index), so that worker processes need not be told when an epoch begins."""

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        return self._stream._sample(place)


def check_stream(images: int, batch_size: int, workers: int) -> None:
    """Raise `UserError` for a batch that is empty or larger than the data, or fewer than no workers."""
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: expected at least 1")
    if batch_size > images:
        raise UserError(f"batch_size={batch_size} is larger than the data set of {images} images: reduce it")
    if workers < 0:
        raise UserError(f"workers={workers}: expected 0 or more")


def evaluation_batches(
    dataset: TextImageDataset, batch_size: int, caption_index: int = 0, rows: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Yield every record once, in order, centre crop, unflipped, on the host; the last batch may be short.

    caption_index: which caption of each record, counted around those that hold a known word.
    rows: places of the records, by default all.
    Raises `UserError` when `batch_size` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: expected at least 1")
    rows = range(len(dataset)) if rows is None else rows
    for start in range(0, len(rows), batch_size):
        indices = rows[start : start + batch_size]
        yield collate([dataset.evaluation_sample(index, caption_index) for index in indices])
