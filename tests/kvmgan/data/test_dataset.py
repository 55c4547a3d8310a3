"""The dataset: what it yields, that it depends on the index and the generator alone, and what it skips."""

import dataclasses
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import decode, stored_side
from kvmgan.data.records import Record
from kvmgan.data.samples import Sample, collate
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError

MakeDataset = Callable[..., TextImageDataset]


def same(first: Sample, second: Sample) -> bool:
    """Say whether two samples are equal in every bit."""
    tensors = torch.equal(first.pixels, second.pixels) and torch.equal(first.tokens, second.tokens)
    return tensors and first[2:] == second[2:]


def draw(dataset: TextImageDataset, index: int, seed: int = 0) -> Sample:
    """Return a training sample drawn from a fresh generator of this seed."""
    return dataset.sample(index, np.random.default_rng(seed))


def test_batch_shapes(make_dataset: MakeDataset) -> None:
    """Pixels of the largest size as bytes, T tokens, padded, and their lengths."""
    dataset = make_dataset()
    batch = collate([draw(dataset, index) for index in range(5)])
    assert batch.pixels.shape == (5, 3, 32, 32)
    assert batch.pixels.dtype == torch.uint8
    assert batch.pixels.is_contiguous()
    assert batch.tokens.shape == (5, 6)
    assert batch.tokens.dtype == batch.lengths.dtype == batch.class_ids.dtype == torch.int64
    assert torch.equal(batch.tokens != 0, torch.arange(6) < batch.lengths[:, None])
    assert batch.indices.tolist() == [0, 1, 2, 3, 4]
    assert batch.class_ids.tolist() == [dataset.records[index].class_id for index in range(5)]


def test_lengths_stay_on_the_host(make_dataset: MakeDataset) -> None:
    """Everything else moves, to a device that holds no data here; on the CPU nothing changes."""
    batch = collate([draw(make_dataset(), index) for index in range(3)])
    moved = batch.to("meta")
    assert moved.lengths is batch.lengths
    devices = {name: tensor.device.type for name, tensor in vars(moved).items()}
    assert devices.pop("lengths") == "cpu"
    assert set(devices.values()) == {"meta"}
    assert len(devices) == 5
    assert all(torch.equal(tensor, vars(batch)[name]) for name, tensor in vars(batch.to("cpu")).items())


def test_pixels_are_those_of_the_crop(make_dataset: MakeDataset, birds_records: list[Record]) -> None:
    """Evaluation shows the centre of the stored image, channels first, in a tensor of its own."""
    dataset = make_dataset()
    record = birds_records[3]
    stored = decode(record.image_path, record.box, stored_side(32))
    top, left = (round(0.5 * (side - 32)) for side in stored.shape[:2])
    expected = torch.from_numpy(stored[top : top + 32, left : left + 32].transpose(2, 0, 1).copy())
    pixels = dataset.evaluation_sample(3, 0).pixels
    assert torch.equal(pixels, expected)
    pixels.zero_()
    assert torch.equal(dataset.evaluation_sample(3, 0).pixels, expected)


def test_the_smallest_images_are_copies_too(make_dataset: MakeDataset) -> None:
    """At a side of one pixel channels first and last look alike in memory; the stored pixels still aren't shared."""
    dataset = make_dataset(sizes=(1,))
    before = dataset.evaluation_sample(0, 0).pixels.clone()
    dataset.evaluation_sample(0, 0).pixels.copy_(255 - before)
    assert torch.equal(dataset.evaluation_sample(0, 0).pixels, before)


def test_samples_depend_on_index_and_generator_alone(make_dataset: MakeDataset) -> None:
    """Another object, order or a call before changes nothing; another generator does."""
    first, second = make_dataset(), make_dataset()
    before = [draw(first, index, 4) for index in range(6)]
    assert all(same(draw(second, index, 4), before[index]) for index in reversed(range(6)))
    assert not all(same(draw(first, index, 5), before[index]) for index in range(6))


def test_training_varies_crop_flip_caption_and_words(make_dataset: MakeDataset) -> None:
    """Over many draws one record shows every caption, both facings, many crops and many subsets of its words."""
    dataset = make_dataset(max_words=5)
    samples = [draw(dataset, 2, seed) for seed in range(60)]
    assert {sample.caption_index for sample in samples} == set(range(len(dataset.records[2].captions)))
    views = {sample.pixels.numpy().tobytes() for sample in samples}
    mirrored = {sample.pixels.flip(-1).contiguous().numpy().tobytes() for sample in samples}
    assert len(views) > 20
    assert views & mirrored
    words = {tuple(sample.tokens.tolist()) for sample in samples if sample.caption_index == 0}
    assert len(words) > 5


def test_evaluation_is_the_centre_with_the_first_words(make_dataset: MakeDataset) -> None:
    """It never varies, and the tokens are those of `encode_caption`."""
    dataset = make_dataset()
    sample = dataset.evaluation_sample(1, 2)
    assert same(sample, dataset.evaluation_sample(1, 2))
    tokens, length = dataset.encode_caption(1, 2)
    assert torch.equal(sample.tokens, tokens)
    assert (sample.length, sample.caption_index) == (length, 2)
    words = dataset.vocabulary.encode(dataset.records[1].captions[2])[:6]
    assert tokens.tolist() == words + [0] * (6 - len(words))


def test_training_crops_move(make_dataset: MakeDataset) -> None:
    """They are sometimes, mirrored back or not, far from the centre that evaluation shows."""
    dataset = make_dataset(sizes=(32,))
    still = dataset.evaluation_sample(0, 0).pixels.float()
    crops = [draw(dataset, 0, seed).pixels.float() for seed in range(10)]
    apart = [min(float((view - still).abs().mean()) for view in (crop, crop.flip(-1))) for crop in crops]
    assert max(apart) > 5.0


@pytest.mark.parametrize("memory_limit", [2**31, 1000])
def test_another_word_limit_shares_the_pixels(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, memory_limit: int
) -> None:
    """The same records with fewer or more words and the same crops; making it decodes nothing; the first stays."""
    dataset = make_dataset(max_words=5, memory_limit=memory_limit)
    expected = make_dataset(max_words=18)
    with monkeypatch.context() as patch:
        patch.setattr("kvmgan.data.dataset.decode", None)
        other = dataset.limited(18)
    assert (dataset.max_words, other.max_words) == (5, 18)
    assert other.records is dataset.records
    assert other.skipped is dataset.skipped
    assert (other.vocabulary, other.sizes, len(other)) == (dataset.vocabulary, dataset.sizes, len(dataset))
    assert all(same(draw(other, index), draw(expected, index)) for index in range(6))
    assert torch.equal(other.encode_caption(0, 1)[0], expected.encode_caption(0, 1)[0])
    assert dataset.encode_caption(0, 1)[0].shape == draw(dataset, 0).tokens.shape == (5,)
    assert torch.equal(draw(other, 3).pixels, draw(dataset, 3).pixels)
    with pytest.raises(UserError, match="max_words=0"):
        dataset.limited(0)


def test_another_word_limit_copies_no_pixel(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both look at the arrays that were decoded first: painting them black shows in both."""
    decoded = []

    def decode_writable(*arguments: object) -> np.ndarray:
        decoded.append(decode(*arguments).copy())
        return decoded[-1]

    monkeypatch.setattr("kvmgan.data.dataset.decode", decode_writable)
    dataset = make_dataset()
    other = dataset.limited(3)
    assert len(decoded) == len(dataset)
    for pixels in decoded:
        pixels[:] = 0
    assert int(dataset.evaluation_sample(0, 0).pixels.max()) == int(other.evaluation_sample(0, 0).pixels.max()) == 0


def test_decoding_on_demand_yields_the_same(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the pixels fit in memory must not change a bit; only those that don't are decoded again."""
    kept, on_demand = make_dataset(), make_dataset(memory_limit=1000)
    calls = []
    monkeypatch.setattr("kvmgan.data.dataset.decode", lambda *arguments: calls.append(1) or decode(*arguments))
    samples = [draw(kept, index, 3) for index in range(len(kept))]
    assert calls == []
    assert all(same(draw(on_demand, index, 3), sample) for index, sample in enumerate(samples))
    assert len(calls) == len(kept)


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
    shown = [draw(dataset, index) for index in range(len(dataset))]
    assert [sample.class_id for sample in shown] == [record.class_id for record in kept]


def test_corrupt_image_found_on_demand_is_replaced(make_dataset: MakeDataset, damaged_records: list[Record]) -> None:
    """Without the pixels in memory damage shows late: the next record stands in, and the image is counted once."""
    dataset = make_dataset(records=damaged_records, memory_limit=1000)
    assert len(dataset) == len(damaged_records) - 2
    assert len(dataset.skipped) == 2
    sample = draw(dataset, 1)
    assert same(sample, draw(dataset, 2))
    assert same(dataset.evaluation_sample(1, 0), dataset.evaluation_sample(2, 0))
    assert sample.index == 2
    assert [path.name for path, _ in dataset.skipped].count("cut.jpg") == 1


def test_all_corrupt_raises(make_dataset: MakeDataset, birds_records: list[Record], tmp_path: Path) -> None:
    """The message counts the images and names the first with its fault; so it does on demand."""
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    records = [dataclasses.replace(record, image_path=tmp_path / "bad.jpg") for record in birds_records[:3]]
    for limit in (0, 10**9):
        with pytest.raises(UserError, match=r"none of the 3 images is usable; the first is .*bad\.jpg"):
            make_dataset(records=records, memory_limit=limit)


def test_a_bomb_of_a_picture_is_left_out(
    make_dataset: MakeDataset, birds_records: list[Record], tmp_path: Path
) -> None:
    """60,000 x 60,000 pixels in a file of a hundred bytes: told by its header, nothing of that size is allocated."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pieces = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(pieces))
    records = [dataclasses.replace(birds_records[0], image_path=path, box=None), *birds_records[1:]]
    for memory_limit in (2**31, 1000):
        dataset = make_dataset(records=records, memory_limit=memory_limit)
        assert len(dataset) == len(birds_records) - 1
        ((skipped, reason),) = dataset.skipped
        assert skipped == path and "decompression bomb" in reason


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
    assert dataset.usable_captions(0) == [1, 3]
    assert {draw(dataset, 0, seed).caption_index for seed in range(30)} == {1, 3}
    assert [dataset.evaluation_sample(0, number).caption_index for number in range(3)] == [1, 3, 1]
    with pytest.raises(UserError, match="xyzzy"):
        dataset.encode_caption(0, 0)


def test_a_header_is_read_once(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory can't hold the pixels, the start opens every file once, to see whether it can."""
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *rest: opened.append(path) or original(path, *rest))
    dataset = make_dataset(memory_limit=1000)
    assert sorted(opened) == sorted(record.image_path for record in dataset.records)


@pytest.mark.parametrize("memory_limit", [2**31, 1000])
@pytest.mark.parametrize("index", [-1, 24])
def test_index_outside_raises(make_dataset: MakeDataset, memory_limit: int, index: int) -> None:
    """There is no record before the first or after the last, kept in memory or not."""
    dataset = make_dataset(memory_limit=memory_limit)
    with pytest.raises(IndexError, match=f"index {index} is outside the 24 records"):
        draw(dataset, index)
    with pytest.raises(IndexError, match=f"index {index} is outside"):
        dataset.evaluation_sample(index, 0)


def test_progress_counts_every_image(make_dataset: MakeDataset) -> None:
    """The callback sees each number once, with the total."""
    seen: list[tuple[int, int]] = []
    dataset = make_dataset(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, len(dataset)) for number in range(1, len(dataset) + 1)]


def test_draws_come_from_the_generator_alone(make_dataset: MakeDataset) -> None:
    """Neither framework's global random state moves."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw(make_dataset(max_words=3), 0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
