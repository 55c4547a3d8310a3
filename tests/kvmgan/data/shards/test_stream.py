"""Batches of shards: epochs, resuming, processes and workers, which shards are read, what is damaged."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.readers.shards import read_shards
from kvmgan.data.samples import Batch, collate
from kvmgan.data.shards import reading
from kvmgan.data.shards.images import ShardedImages
from kvmgan.data.shards.index import INDEX
from kvmgan.data.shards.stream import ShardStream
from kvmgan.errors import UserError
from kvmgan.random_streams import numpy_stream

MakeImages = Callable[..., ShardedImages]


def make_stream(images: ShardedImages, batch_size: int = 4, **options: object) -> ShardStream:
    """A stream of seed 0 for the purpose "test", with any option changed."""
    return ShardStream(images, batch_size, **{"seed": 0, "purpose": "test", **options})


def take(stream: ShardStream, start: int, count: int) -> list[Batch]:
    """`count` batches from step `start` on."""
    return list(itertools.islice(stream.iterate(start), count))


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches are equal in every bit."""
    return all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_an_epoch_shows_no_picture_twice(make_images: MakeImages, lanes: int, window: int) -> None:
    """19 pictures in batches of 4: four steps of 16 different ones; other orders, and other ones left out, later on."""
    stream = make_stream(make_images(lanes=lanes, window=window))
    assert stream.steps_per_epoch == 4 and stream.lanes == min(lanes, 4)
    indices = [batch.indices.tolist() for batch in take(stream, 0, 40)]
    epochs = [tuple(itertools.chain(*indices[start : start + 4])) for start in range(0, 40, 4)]
    # A window of one mixes nothing: four shards have 24 orders.
    assert all(len(set(epoch)) == 16 for epoch in epochs) and len(set(epochs)) >= (10 if window > 1 else 5)
    assert len({frozenset(epoch) for epoch in epochs}) > 1
    assert set(itertools.chain(*epochs)) == set(range(19))


def test_samples_are_those_of_records_read_at_random(make_images: MakeImages, shards: Path) -> None:
    """The same archives by another reader and the data set of records: crop, facing, caption, class, all of it."""
    images = make_images()
    stream = make_stream(images)
    dataset = TextImageDataset(read_shards(shards, "train"), images.vocabulary, sizes=(16, 32), max_words=8)
    for step, batch in enumerate(take(stream, 0, 9)):
        epoch = step // stream.steps_per_epoch
        samples = [dataset.sample(i, numpy_stream(0, "test sample", epoch, i)) for i in batch.indices.tolist()]
        assert same(batch, collate(samples))


def test_any_step_can_be_reached_directly(make_images: MakeImages) -> None:
    """Within a window, at its border, at an epoch's."""
    straight = take(make_stream(make_images()), 0, 11)
    for start in range(1, 11):
        resumed = take(make_stream(make_images()), start, 11 - start)
        assert all(same(a, b) for a, b in zip(straight[start:], resumed, strict=True)), start


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_workers_change_nothing(make_images: MakeImages, workers: int) -> None:
    """Of two lanes two workers read one each, and no third is started; the framework's random state stays."""
    before = torch.get_rng_state()
    stream = make_stream(make_images(), workers=workers)
    assert stream.workers == min(workers, 2)
    expected = take(make_stream(make_images()), 2, 5)
    assert all(same(a, b) for a, b in zip(expected, take(stream, 2, 5), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rows", [[0, 1], [2, 3], [0, 2], [3], [0, 1, 2]])
def test_a_process_makes_its_rows(make_images: MakeImages, rows: list[int]) -> None:
    """Its rows of the whole batch, whether they are a lane's or parts of several."""
    whole, own = (take(make_stream(make_images(), rows=r), 1, 6) for r in (None, rows))
    for all_rows, some in zip(whole, own, strict=True):
        assert same(Batch(**{name: tensor[rows] for name, tensor in vars(all_rows).items()}), some)


def test_a_process_reads_its_shards_alone(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stretches of two lanes have one shard in common at most; a resume opens none that is done with."""
    opened: list[int] = []
    original = reading._read_shard
    monkeypatch.setattr(reading, "_read_shard", lambda s, first: opened.append(first) or original(s, first))
    seen = []
    for rows in ([0, 1], [2, 3]):
        opened.clear()
        take(make_stream(make_images(), rows=rows), 0, 4)
        seen.append(set(opened))
    assert len(seen[0] | seen[1]) == 4 and len(seen[0] & seen[1]) <= 1
    opened.clear()
    take(make_stream(make_images(), rows=[2, 3]), 3, 1)
    assert len(opened) == 1


def test_damaged_pictures_are_stood_in_for(
    make_images: MakeImages, shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By another of their window, reported once by name; the places of the others stay."""
    expected = take(make_stream(make_images()), 0, 8)
    spoilt = read_shards(shards, "train")[7].image_path
    with spoilt.archive.open("r+b") as file:
        file.seek(spoilt.offset)
        file.write(bytes(spoilt.size))
    found = take(make_stream(make_images()), 0, 8)
    differing = []
    for before, after in zip(expected, found, strict=True):
        assert 7 not in after.indices
        differing += before.indices[before.indices != after.indices].tolist()
    assert differing == [7] * len(differing) and differing
    assert [spoilt.name in record.getMessage() for record in caplog.records] == [True]
    for record in read_shards(shards, "train"):
        with record.image_path.archive.open("r+b") as file:
            file.seek(record.image_path.offset)
            file.write(bytes(record.image_path.size))
    with pytest.raises(UserError, match="none of 3 pictures in a row is usable"):
        take(make_stream(make_images()), 0, 1)


def test_a_damaged_shard_is_named(make_images: MakeImages, shards: Path) -> None:
    """Of the same length, so that its size doesn't tell; cut short or gone, it is found before the first step."""
    path = shards / "train-000001.tar"
    whole = path.read_bytes()
    path.write_bytes(b"\xff" * len(whole))
    with pytest.raises(UserError, match=r"train-000001.tar is damaged"):
        take(make_stream(make_images()), 0, 4)
    path.write_bytes(whole[:-512])
    with pytest.raises(UserError, match=r"train-000001.tar has .* bytes, expected"):
        make_images()
    path.unlink()
    with pytest.raises(UserError, match=r"train-000001.tar can't be read"):
        make_images()


@pytest.mark.parametrize(("said", "message"), [(4, "holds more than 4 samples"), (6, "holds 5 samples, expected 6")])
def test_a_shard_of_another_count_is_named(make_images: MakeImages, shards: Path, said: int, message: str) -> None:
    """Else every place behind it would be another picture's."""
    index = json.loads((shards / INDEX).read_text())
    index["splits"]["train"]["shards"][0]["samples"] = said
    (shards / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"train-000000.tar {message}"):
        take(make_stream(make_images(lanes=1)), 0, 12)


def test_words_that_a_vocabulary_does_not_know(make_images: MakeImages, shards: Path) -> None:
    """Given encoders may know few of them: pictures without a known word aren't drawn."""
    images = make_images(window=8)
    captions = {index: record.captions for index, record in enumerate(read_shards(shards, "train"))}
    word = min(images.vocabulary.words[1:], key=lambda w: abs(sum(w in " ".join(c) for c in captions.values()) - 10))
    images.vocabulary = type(images.vocabulary)([word])
    known = {index for index, texts in captions.items() if word in " ".join(texts).lower().split()}
    assert 0 < len(known) < 19
    for batch in take(make_stream(images), 0, 8):
        assert set(batch.indices.tolist()) <= known
        assert batch.tokens.max() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size=0"), ({"batch_size": 20}, "19 images"), ({"workers": -1}, "workers=-1")],
)
def test_refused(make_images: MakeImages, options: dict[str, int], message: str) -> None:
    """As the stream of records refuses them."""
    with pytest.raises(UserError, match=message):
        make_stream(make_images(), **options)


def test_the_word_limit(make_images: MakeImages) -> None:
    """Another limit is another view of the same pictures; none below one."""
    images = make_images()
    assert take(make_stream(images.limited(3)), 0, 1)[0].tokens.shape == (4, 3)
    assert images.max_words == 8
    with pytest.raises(UserError, match="max_words=0"):
        images.limited(0)


def test_what_decides_the_order_tells_data_apart(make_images: MakeImages) -> None:
    """Encoders in the cache are named by it."""
    described = [list(make_images(**options).described()) for options in ({}, {"lanes": 4}, {"window": 4})]
    assert len({str(one) for one in described}) == 3
    assert described[0] == list(make_images().described())
