"""Batches by position: epochs, resuming anywhere, seeds and purposes, worker processes, evaluation order."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch

from kvmgan.data.batches import BatchStream, evaluation_batches
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.samples import Batch
from kvmgan.errors import UserError

MakeDataset = Callable[..., TextImageDataset]


def take(stream: BatchStream, start: int, count: int) -> list[Batch]:
    """Return `count` batches from step `start` on."""
    return list(itertools.islice(stream.iterate(start), count))


def make_stream(dataset: TextImageDataset, batch_size: int = 5, **options: object) -> BatchStream:
    """Return a stream of seed 0 for the purpose "test", with any option changed."""
    return BatchStream(dataset, batch_size, **{"seed": 0, "purpose": "test", **options})


def same(first: Batch, second: Batch) -> bool:
    """Say whether two batches are equal in every bit."""
    return all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


def test_an_epoch_has_no_repetition_and_drops_the_rest(make_dataset: MakeDataset) -> None:
    """24 records in batches of 5: four steps an epoch with 20 different records, another order in the next."""
    stream = make_stream(make_dataset())
    assert stream.steps_per_epoch == 4
    indices = [batch.indices.tolist() for batch in take(stream, 0, 8)]
    for epoch in (indices[:4], indices[4:]):
        assert len(set(itertools.chain(*epoch))) == 20
    assert indices[:4] != indices[4:]


def test_any_step_can_be_reached_directly(make_dataset: MakeDataset) -> None:
    """Starting at a step, within an epoch or at its border, yields what straight iteration does."""
    straight = take(make_stream(make_dataset()), 0, 11)
    for start in (1, 4, 6, 8):
        resumed = take(make_stream(make_dataset()), start, 11 - start)
        assert all(same(a, b) for a, b in zip(straight[start:], resumed, strict=True))


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"seed": 2**32}, {"seed": 2**63 - 1}, {"purpose": "damsm"}, {"purpose": "classifier"}],
)
def test_seeds_and_purposes_differ(make_dataset: MakeDataset, options: dict[str, object]) -> None:
    """Another seed or purpose goes through the records in another order, and shows each in another way."""
    dataset = make_dataset()
    streams = make_stream(dataset, 24), make_stream(dataset, 24, **options)
    first, second = (take(stream, 0, 1)[0] for stream in streams)
    assert first.indices.tolist() != second.indices.tolist()
    first_order, second_order = first.indices.argsort(), second.indices.argsort()
    equal = (first.pixels[first_order] == second.pixels[second_order]).flatten(1).all(dim=1)
    # Two draws can fall on the same crop and facing, seldom.
    assert int(equal.sum()) <= 4
    assert not torch.equal(first.caption_indices[first_order], second.caption_indices[second_order])


def test_a_sample_is_drawn_by_epoch_and_record(make_dataset: MakeDataset) -> None:
    """What is seen of a record doesn't depend on its place in a batch; from epoch to epoch it varies."""
    dataset = make_dataset()
    seen = []
    for batch_size in (24, 5):
        stream = make_stream(dataset, batch_size)
        batches = take(stream, 0, 2 * stream.steps_per_epoch)
        views = {}
        for step, batch in enumerate(batches):
            for index, pixels, tokens in zip(batch.indices.tolist(), batch.pixels, batch.tokens, strict=True):
                views[step // stream.steps_per_epoch, index] = (*pixels.flatten().tolist(), *tokens.tolist())
        seen.append(views)
    assert len(seen[1]) == 40
    assert all(seen[0][place] == view for place, view in seen[1].items())
    assert sum(seen[0][0, index] != seen[0][1, index] for index in range(24)) >= 20


def test_workers_change_nothing(make_dataset: MakeDataset) -> None:
    """Two processes across an epoch's border yield the same bits, and the framework's random state stays."""
    alone = take(make_stream(make_dataset()), 2, 5)
    state = torch.get_rng_state()
    shared = take(make_stream(make_dataset(), workers=2), 2, 5)
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
        make_stream(make_dataset(), **options)


def test_the_whole_data_set_can_be_one_batch(make_dataset: MakeDataset) -> None:
    """The largest batch that is allowed holds every record."""
    batch = take(make_stream(make_dataset(), 24), 0, 1)[0]
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


def test_evaluation_passes_over_captions_without_a_known_word(make_dataset: MakeDataset) -> None:
    """A first caption that the vocabulary doesn't know at all is no obstacle."""
    records = [dataclasses.replace(r, captions=("xyzzy", *r.captions)) for r in make_dataset().records]
    batch = next(evaluation_batches(make_dataset(records=records), 24))
    assert batch.caption_indices.tolist() == [1] * 24
    assert int(batch.lengths.min()) >= 1
