"""Batches by position: epochs, resuming anywhere, worker processes, evaluation order."""

import itertools
from collections.abc import Callable

import pytest
import torch

from kvmgan.data.batches import BatchStream, evaluation_batches
from kvmgan.data.dataset import Batch, TextImageDataset
from kvmgan.errors import UserError

MakeDataset = Callable[..., TextImageDataset]


def take(stream: BatchStream, start: int, count: int) -> list[Batch]:
    """Return `count` batches from step `start` on."""
    return list(itertools.islice(stream.iterate(start), count))


def same(first: Batch, second: Batch) -> bool:
    """Say whether two batches are equal in every bit."""
    images = all(torch.equal(a, b) for a, b in zip(first.images, second.images, strict=True))
    names = ("tokens", "lengths", "class_ids", "indices", "caption_indices")
    return images and all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_an_epoch_has_no_repetition_and_drops_the_rest(make_dataset: MakeDataset) -> None:
    """24 records in batches of 5: four steps an epoch with 20 different records, another order in the next."""
    stream = BatchStream(make_dataset(), 5)
    assert stream.steps_per_epoch == 4
    indices = [batch.indices.tolist() for batch in take(stream, 0, 8)]
    for epoch in (indices[:4], indices[4:]):
        assert len(set(itertools.chain(*epoch))) == 20
    assert indices[:4] != indices[4:]


def test_any_step_can_be_reached_directly(make_dataset: MakeDataset) -> None:
    """Starting at a step, within an epoch or at its border, yields what straight iteration does."""
    straight = take(BatchStream(make_dataset(), 5), 0, 11)
    for start in (1, 4, 6, 8):
        resumed = take(BatchStream(make_dataset(), 5), start, 11 - start)
        assert all(same(a, b) for a, b in zip(straight[start:], resumed, strict=True))


def test_seeds_differ(make_dataset: MakeDataset) -> None:
    """The order is drawn from the seed."""
    orders = [
        [batch.indices.tolist() for batch in take(BatchStream(make_dataset(), 5, seed=seed), 0, 4)] for seed in (0, 1)
    ]
    assert orders[0] != orders[1]


def test_workers_change_nothing(make_dataset: MakeDataset) -> None:
    """Two processes across an epoch's border yield the same bits, and the framework's random state stays."""
    alone = take(BatchStream(make_dataset(), 5), 2, 5)
    state = torch.get_rng_state()
    shared = take(BatchStream(make_dataset(), 5, workers=2), 2, 5)
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 25}, "batch_size=25 is larger than the data set of 24 images"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2, "workers": -1}, "workers=-1"),
    ],
)
def test_impossible_options_raise(make_dataset: MakeDataset, options: dict, message: str) -> None:
    """The message names the option and the data's size."""
    with pytest.raises(UserError, match=message):
        BatchStream(make_dataset(), **options)


def test_the_whole_data_set_can_be_one_batch(make_dataset: MakeDataset) -> None:
    """The largest batch that is allowed holds every record."""
    batch = take(BatchStream(make_dataset(), 24), 0, 1)[0]
    assert sorted(batch.indices.tolist()) == list(range(24))


def test_evaluation_goes_in_order_and_ends_short(make_dataset: MakeDataset) -> None:
    """Every record once; the captions are those asked for, counted around."""
    dataset = make_dataset()
    batches = list(evaluation_batches(dataset, 7, caption_index=4))
    assert [len(batch.lengths) for batch in batches] == [7, 7, 7, 3]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(24))
    assert {int(index) for batch in batches for index in batch.caption_indices} == {1}
    assert torch.equal(batches[0].tokens[2], dataset.encode_caption(2, 1)[0])
    with pytest.raises(UserError, match="batch_size=0"):
        next(evaluation_batches(dataset, 0))
