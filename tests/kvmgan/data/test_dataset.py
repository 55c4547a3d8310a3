"""The dataset: what it yields, that it depends on seed, epoch and index alone, and what it skips."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kvmgan.data.dataset import Sample, TextImageDataset, collate
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError

MakeDataset = Callable[..., TextImageDataset]


def same(first: Sample, second: Sample) -> bool:
    """Say whether two samples are equal in every bit."""
    images = all(torch.equal(a, b) for a, b in zip(first.images, second.images, strict=True))
    return images and torch.equal(first.tokens, second.tokens) and first[2:] == second[2:]


def test_batch_shapes_and_mask(make_dataset: MakeDataset) -> None:
    """Images of every scale in [-1, 1], T tokens, lengths and the mask that belongs to them."""
    dataset = make_dataset()
    batch = collate([dataset[index] for index in range(5)])
    assert [tuple(image.shape) for image in batch.images] == [(5, 3, 8, 8), (5, 3, 16, 16), (5, 3, 32, 32)]
    assert all(
        image.dtype == torch.float32 and image.abs().max() <= 1 and image.is_contiguous() for image in batch.images
    )
    assert batch.tokens.shape == (5, 6)
    assert batch.tokens.dtype == batch.lengths.dtype == batch.class_ids.dtype == torch.int64
    assert torch.equal(batch.mask, batch.tokens != 0)
    assert torch.equal(batch.mask.sum(dim=1), batch.lengths)
    assert batch.indices.tolist() == [0, 1, 2, 3, 4]
    assert batch.class_ids.tolist() == [dataset.records[index].class_id for index in range(5)]
    assert torch.equal(batch.to("cpu").images[2], batch.images[2])


def test_smaller_scales_show_the_same_crop(make_dataset: MakeDataset) -> None:
    """The area average of the large image is the small one."""
    small, _, large = make_dataset()[3].images
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large, 4), small, rtol=0, atol=1e-5)


def test_samples_depend_on_seed_epoch_and_index_alone(make_dataset: MakeDataset) -> None:
    """Another object, order or a call before changes nothing; another seed or epoch does."""
    first, second = make_dataset(seed=1), make_dataset(seed=1)
    for dataset in (first, second):
        dataset.set_epoch(4)
    before = [first[index] for index in range(6)]
    assert all(same(second[index], before[index]) for index in reversed(range(6)))
    assert all(same(first.sample(index, 4), before[index]) for index in range(6))
    assert not all(same(first.sample(index, 5), before[index]) for index in range(6))
    other = make_dataset(seed=2)
    assert not all(same(other.sample(index, 4), before[index]) for index in range(6))


def test_training_varies_crop_flip_caption_and_words(make_dataset: MakeDataset) -> None:
    """Over many epochs one record shows every caption, both facings, many crops and many subsets of its words."""
    dataset = make_dataset(max_words=5)
    samples = [dataset.sample(2, epoch) for epoch in range(60)]
    assert {sample.caption_index for sample in samples} == set(range(len(dataset.records[2].captions)))
    views = {sample.images[2].numpy().tobytes() for sample in samples}
    mirrored = {sample.images[2].flip(-1).contiguous().numpy().tobytes() for sample in samples}
    assert len(views) > 20
    assert views & mirrored
    words = {tuple(sample.tokens.tolist()) for sample in samples if sample.caption_index == 0}
    assert len(words) > 5


def test_evaluation_is_the_centre_with_the_first_words(make_dataset: MakeDataset) -> None:
    """No epoch changes it, and the tokens are those of `encode_caption`."""
    dataset = make_dataset(train=False)
    assert same(dataset.sample(1, 0), dataset.sample(1, 9))
    assert same(dataset.sample(1, 0), dataset.evaluation_sample(1, 0))
    sample = dataset.evaluation_sample(1, 2)
    tokens, length = dataset.encode_caption(1, 2)
    assert torch.equal(sample.tokens, tokens)
    assert (sample.length, sample.caption_index) == (length, 2)
    words = dataset.vocabulary.encode(dataset.records[1].captions[2])[:6]
    assert tokens.tolist() == words + [0] * (6 - len(words))


def test_training_crops_lie_inside_the_stored_pixels(make_dataset: MakeDataset, birds_records: list[Record]) -> None:
    """The centre crop of training epochs is sometimes, but not always, that of evaluation: crops move."""
    train, still = make_dataset(sizes=(32,)), make_dataset(sizes=(32,), train=False)
    assert train[0].images[0].shape == still[0].images[0].shape
    differences = [float((train.sample(0, epoch).images[0] - still[0].images[0]).abs().mean()) for epoch in range(10)]
    assert max(differences) > 0.02


def test_decoding_on_demand_yields_the_same(make_dataset: MakeDataset) -> None:
    """Whether the pixels fit in memory must not change a bit."""
    kept, on_demand = make_dataset(), make_dataset(memory_limit=1000)
    assert kept.keeps_pixels
    assert not on_demand.keeps_pixels
    assert all(same(kept.sample(index, 3), on_demand.sample(index, 3)) for index in range(len(kept)))


@pytest.fixture
def damaged_records(birds_records: list[Record], tmp_path: Path) -> list[Record]:
    """The birds with one image cut short, one missing and one whose captions hold no known word."""
    whole = birds_records[1].image_path.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    changed = list(birds_records)
    changed[1] = dataclasses.replace(changed[1], image_path=tmp_path / "cut.jpg")
    changed[4] = dataclasses.replace(changed[4], image_path=tmp_path / "gone.jpg")
    changed[6] = dataclasses.replace(changed[6], captions=("xyzzy",))
    return changed


def test_unusable_records_are_skipped_and_counted(make_dataset: MakeDataset, damaged_records: list[Record]) -> None:
    """Each is listed with its path and reason; the others keep their order."""
    dataset = make_dataset(records=damaged_records)
    assert len(dataset) == len(damaged_records) - 3
    reasons = {path.name: reason for path, reason in dataset.skipped}
    assert len(dataset.skipped) == len(reasons) == 3
    assert "cannot be decoded" in reasons["cut.jpg"]
    assert "is missing" in reasons["gone.jpg"]
    assert "known word" in reasons[damaged_records[6].image_path.name]
    kept = [record for number, record in enumerate(damaged_records) if number not in (1, 4, 6)]
    assert dataset.records == kept
    assert [dataset[index].class_id for index in range(len(dataset))] == [record.class_id for record in kept]


def test_corrupt_image_found_on_demand_is_replaced(make_dataset: MakeDataset, damaged_records: list[Record]) -> None:
    """Without the pixels in memory damage shows late: the next record stands in, and the image is counted once."""
    dataset = make_dataset(records=damaged_records, memory_limit=1000)
    assert len(dataset) == len(damaged_records) - 2
    assert len(dataset.skipped) == 2
    sample = dataset[1]
    assert same(sample, dataset[2])
    assert sample.index == 2
    assert [path.name for path, _ in dataset.skipped].count("cut.jpg") == 1


def test_all_corrupt_raises(make_dataset: MakeDataset, birds_records: list[Record], tmp_path: Path) -> None:
    """The message counts the images and names the first with its fault; so it does on demand."""
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    records = [dataclasses.replace(record, image_path=tmp_path / "bad.jpg") for record in birds_records[:3]]
    for limit in (0, 10**9):
        with pytest.raises(UserError, match=r"none of the 3 images is usable; the first is .*bad\.jpg"):
            make_dataset(records=records, memory_limit=limit)


def test_no_record_raises(make_dataset: MakeDataset) -> None:
    """An empty list of records is named as such."""
    with pytest.raises(UserError, match="holds no record"):
        make_dataset(records=[])


@pytest.mark.parametrize("options", [{"sizes": ()}, {"sizes": (32, 16)}, {"sizes": (0, 16)}, {"max_words": 0}])
def test_impossible_options_raise(make_dataset: MakeDataset, options: dict) -> None:
    """The message names the argument."""
    with pytest.raises(UserError, match=next(iter(options))):
        make_dataset(**options)


def test_captions_without_known_words_are_never_drawn(make_dataset: MakeDataset, birds_records: list[Record]) -> None:
    """Caption indices keep counting the record's captions; asking for the unusable one raises."""
    record = dataclasses.replace(birds_records[0], captions=("xyzzy", "a bird", "!!", "the bird"))
    dataset = make_dataset(records=[record], vocabulary=Vocabulary.build(["a bird", "the bird"]))
    assert {dataset.sample(0, epoch).caption_index for epoch in range(30)} == {1, 3}
    assert [dataset.evaluation_sample(0, number).caption_index for number in range(3)] == [1, 3, 1]
    with pytest.raises(UserError, match="xyzzy"):
        dataset.encode_caption(0, 0)


def test_index_outside_raises(make_dataset: MakeDataset) -> None:
    """Plain iteration over the dataset ends."""
    dataset = make_dataset()
    assert len(list(dataset)) == len(dataset)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_progress_counts_every_image(make_dataset: MakeDataset) -> None:
    """The callback sees each number once, with the total."""
    seen: list[tuple[int, int]] = []
    dataset = make_dataset(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, len(dataset)) for number in range(1, len(dataset) + 1)]


def test_random_words_come_from_numpy_alone(make_dataset: MakeDataset) -> None:
    """Neither framework's global random state moves."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    make_dataset()[0]
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
