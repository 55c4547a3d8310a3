"""Batches on their way to the device: order, how far ahead, errors, and what stays on the host."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch

from kvmgan.data.batches import BatchStream, evaluation_batches
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.prefetch import one_ahead, prefetched
from kvmgan.data.samples import Batch
from kvmgan.errors import UserError

MakeDataset = Callable[..., TextImageDataset]


def test_on_the_cpu_batches_pass_unchanged(make_dataset: MakeDataset) -> None:
    """The very objects come, in order, and none is made before it is asked for."""
    made: list[Batch] = []

    def batches() -> Iterator[Batch]:
        for batch in evaluation_batches(make_dataset(), 7):
            made.append(batch)
            yield batch

    stream = prefetched(batches(), torch.device("cpu"))
    assert made == []
    for number, batch in enumerate(stream, start=1):
        assert len(made) == number
        assert batch is made[-1]
    assert len(made) == 4


def test_one_item_is_taken_ahead_and_no_more() -> None:
    """Nothing before the first is asked for; then always one more than was handed out, in order, to the end."""
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    stream = one_ahead(numbers())
    assert taken == []
    for number in range(5):
        assert next(stream) == number
        assert len(taken) == min(number + 2, 5)
    assert next(stream, None) is None
    assert list(one_ahead(iter(()))) == []


@pytest.mark.parametrize("good", [0, 1, 3])
def test_an_error_ahead_comes_in_its_turn(good: int) -> None:
    """All items before it are handed out first, and it is the same error."""
    error = UserError("a broken image")

    def numbers() -> Iterator[int]:
        yield from range(good)
        raise error

    stream, seen = one_ahead(numbers()), []
    with pytest.raises(UserError) as caught:
        seen.extend(stream)
    assert seen == list(range(good))
    assert caught.value is error


def test_an_interrupt_ahead_is_not_held_back() -> None:
    """Ctrl-C while the next item is made stops at once."""

    def numbers() -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(one_ahead(numbers()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies to a GPU need one")
@pytest.mark.parametrize("workers", [0, 2])
def test_on_a_gpu_the_same_batches_arrive(make_dataset: MakeDataset, workers: int) -> None:
    """Every batch equals the host's while a slow kernel keeps the stream busy; the lengths stay on the host."""
    expected = list(itertools.islice(BatchStream(make_dataset(), 5, seed=0, purpose="test").iterate(0), 12))
    stream = BatchStream(make_dataset(), 5, seed=0, purpose="test", workers=workers)
    copies = []
    for batch in itertools.islice(prefetched(stream.iterate(0), "cuda"), 12):
        torch.cuda._sleep(10_000_000)
        assert batch.lengths.device.type == "cpu"
        assert all(tensor.device.type == "cuda" for tensor in batch.moving().values())
        copies.append({name: tensor.clone() for name, tensor in batch.moving().items()})
    for batch, copy in zip(expected, copies, strict=True):
        assert all(torch.equal(tensor, copy[name].cpu()) for name, tensor in batch.moving().items())
