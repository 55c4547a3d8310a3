"""Batches by position: which records make up step n never depends on what came before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from kvmgan.data.dataset import Batch, Sample, TextImageDataset, collate
from kvmgan.errors import UserError


class BatchStream:
    """An endless stream of training batches whose position is the step.

    Every epoch goes through a permutation of the records drawn from (seed, epoch); what doesn't fill a batch at its
    end is left out. So the batch of a step is a function of the seed and the step; a resumed run sees the same data.
    """

    def __init__(self, dataset: TextImageDataset, batch_size: int, *, seed: int = 0, workers: int = 0) -> None:
        """Take batches of `batch_size` from `dataset`, made by so many `workers` (processes; 0: in this one).

        Raises `UserError` when the batch is empty or larger than the data.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: expected at least 1")
        if batch_size > len(dataset):
            raise UserError(f"batch_size={batch_size} is larger than the data set of {len(dataset)} images: reduce it")
        if workers < 0:
            raise UserError(f"workers={workers}: expected 0 or more")
        self.dataset, self.batch_size, self.seed, self.workers = dataset, batch_size, seed, workers
        self.steps_per_epoch = len(dataset) // batch_size

    def iterate(self, start_step: int) -> Iterator[Batch]:
        """Yield the batches of steps `start_step`, `start_step` + 1, ... without end.

        The framework's random states are left alone.
        """
        if self.workers == 0:
            for places in self._places(start_step):
                yield collate([self.dataset.sample(index, epoch) for epoch, index in places])
            return
        # A generator of its own keeps the loader from drawing its seed from the framework's random state.
        yield from torch.utils.data.DataLoader(
            _Places(self.dataset),
            batch_sampler=_Steps(self, start_step),
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    def _places(self, start_step: int) -> Iterator[list[tuple[int, int]]]:
        """Yield epoch and index of every sample of each step."""
        for epoch in itertools.count(start_step // self.steps_per_epoch):
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset)).tolist()
            first = start_step % self.steps_per_epoch if epoch == start_step // self.steps_per_epoch else 0
            for step in range(first, self.steps_per_epoch):
                start = step * self.batch_size
                yield [(epoch, index) for index in order[start : start + self.batch_size]]


class _Steps:
    """The batch sampler of a stream from a step on."""

    def __init__(self, stream: BatchStream, start_step: int) -> None:
        self._stream, self._start_step = stream, start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._stream._places(self._start_step)


class _Places(torch.utils.data.Dataset):
    """A dataset addressed by (epoch, index), so that worker processes need not be told when an epoch begins."""

    def __init__(self, dataset: TextImageDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        epoch, index = place
        return self._dataset.sample(index, epoch)


def evaluation_batches(dataset: TextImageDataset, batch_size: int, caption_index: int = 0) -> Iterator[Batch]:
    """Yield every record once, in order, centre crop, unflipped; the last batch may be short.

    caption_index: which caption of each record, counted around where a record has fewer.
    Raises `UserError` when `batch_size` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: expected at least 1")
    for start in range(0, len(dataset), batch_size):
        indices = range(start, min(start + batch_size, len(dataset)))
        yield collate([dataset.evaluation_sample(index, caption_index) for index in indices])
