"""Images decoded beforehand: the same to the bit, found again, and only as long as they are what they were."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kvmgan.data import prepared as module
from kvmgan.data.batches import BatchStream
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import decode, stored_side
from kvmgan.data.prepared import PreparedImages, keep_vocabulary, prepare_images, prepared_folder
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary

SIDE = stored_side(32)
MakeDataset = Callable[..., TextImageDataset]


@pytest.fixture
def records(birds_records: list[Record], tmp_path: Path) -> list[Record]:
    """Copies of the birds, one without a box, that a test may change."""
    copies = []
    for record in birds_records:
        path = tmp_path / "images" / f"{record.key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.image_path.read_bytes())
        copies.append(dataclasses.replace(record, image_path=path))
    copies[3] = dataclasses.replace(copies[3], box=None)
    return copies


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is decoded; five images make a shard."""
    paths: list[Path] = []
    monkeypatch.setattr(module, "_IMAGES_A_SHARD", 5)
    monkeypatch.setattr(module, "decode", lambda path, *rest: paths.append(path) or decode(path, *rest))
    return paths


def prepare(folder: Path, records: list[Record]) -> list[int]:
    """Prepare the records; returns the progress."""
    counts: list[int] = []
    prepare_images(folder, records, SIDE, counts.append)
    return counts


def test_pixels_are_those_of_the_files(records: list[Record], decoded: list[Path], tmp_path: Path) -> None:
    """24 images in five shards, each decoded once; nothing temporary is left."""
    folder = tmp_path / "kept"
    assert prepare(folder, records) == [5, 5, 5, 5, 4]
    assert sorted(decoded) == sorted(record.image_path for record in records)
    found = PreparedImages(folder)
    for record in records:
        assert record in found and found.reason(record) is None
        assert np.array_equal(found.pixels(record), decode(record.image_path, record.box, SIDE))
    assert sorted(path.name for path in folder.iterdir())[:2] == ["shard-00000.bin", "shard-00000.json"]
    assert len(list(folder.iterdir())) == 10


def test_only_what_changed_is_decoded_again(records: list[Record], decoded: list[Path], tmp_path: Path) -> None:
    """An image that was touched, and one whose box changed, each with its shard; the others stay."""
    folder = tmp_path / "kept"
    prepare(folder, records)
    decoded.clear()
    prepare(folder, records)
    assert decoded == []
    Image.new("RGB", (60, 50), (250, 0, 0)).save(records[7].image_path)
    changed = [*records[:16], dataclasses.replace(records[16], box=(0.0, 0.0, 20.0, 20.0)), *records[17:]]
    stale = PreparedImages(folder)
    assert [number for number, record in enumerate(changed) if record not in stale] == [7, 16]
    prepare(folder, changed)
    assert sorted(decoded) == sorted(record.image_path for record in [*records[5:10], *records[15:20]])
    assert all(record in PreparedImages(folder) for record in changed)
    assert PreparedImages(folder).pixels(changed[7])[0, 0, 0] > 240


def test_a_change_of_time_alone_counts(records: list[Record], tmp_path: Path) -> None:
    """Another picture may have as many bytes."""
    prepare(tmp_path / "kept", records)
    status = records[0].image_path.stat()
    os.utime(records[0].image_path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert records[0] not in PreparedImages(tmp_path / "kept")


def test_what_was_interrupted_goes_on(
    records: list[Record], decoded: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole shards count; of the one that was being written nothing is left."""
    folder = tmp_path / "kept"

    def stopping(path: Path, *rest: object) -> np.ndarray:
        if path == records[12].image_path:
            raise KeyboardInterrupt
        return decode(path, *rest)

    with monkeypatch.context() as context:
        context.setattr(module, "decode", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, records)
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".bin") == [
        "shard-00000.bin",
        "shard-00001.bin",
    ]
    prepare(folder, records)
    assert sorted(decoded) == sorted(record.image_path for record in records[10:])
    # A shard that was cut short on the disk is written again.
    whole = (folder / "shard-00001.bin").read_bytes()
    (folder / "shard-00001.bin").write_bytes(whole[:-1])
    prepare(folder, records)
    assert (folder / "shard-00001.bin").read_bytes() == whole


def test_a_shard_that_was_cut_short_is_not_read(records: list[Record], decoded: list[Path], tmp_path: Path) -> None:
    """Its images are decoded from their files; those of the other shards are there."""
    folder = tmp_path / "kept"
    prepare(folder, records)
    path = folder / "shard-00001.bin"
    path.write_bytes(path.read_bytes()[:-1])
    found = PreparedImages(folder)
    assert [record in found for record in records] == [number not in range(5, 10) for number in range(24)]


def test_a_broken_image_is_kept_as_such(records: list[Record], make_dataset: MakeDataset, tmp_path: Path) -> None:
    """Cut short, and missing: the data set leaves them out with the reason, as without a preparation."""
    records[2].image_path.write_bytes(records[2].image_path.read_bytes()[:400])
    records[9].image_path.unlink()
    prepare(tmp_path / "kept", records)
    kept = make_dataset(records=records, prepared=PreparedImages(tmp_path / "kept"))
    plain = make_dataset(records=records)
    assert kept.skipped == plain.skipped and len(kept.skipped) == 2
    assert [record.key for record in kept.records] == [record.key for record in plain.records]


def test_training_sees_the_same(
    records: list[Record], make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches to the bit, without memory for a single image and without decoding one; workers, too."""
    prepare(tmp_path / "kept", records)
    plain = make_dataset(records=records)
    kept = make_dataset(records=records, prepared=PreparedImages(tmp_path / "kept"), memory_limit=1)
    assert (plain.decoded_on_demand, kept.decoded_on_demand) == (0, 0)
    assert make_dataset(records=records, memory_limit=1).decoded_on_demand == 24
    monkeypatch.setattr("kvmgan.data.dataset.decode", lambda *rest: pytest.fail("decoded"))
    streams = [BatchStream(d, 4, seed=1, purpose="train", workers=w) for d, w in ((plain, 0), (kept, 0), (kept, 1))]
    for batches in zip(*(stream.iterate(3) for stream in streams), range(8), strict=False):
        first, *others = batches[:3]
        for other in others:
            assert torch.equal(first.pixels, other.pixels) and torch.equal(first.tokens, other.tokens)


def test_an_image_that_changed_is_decoded_from_its_file(
    records: list[Record], make_dataset: MakeDataset, tmp_path: Path
) -> None:
    """Never the old pixels in silence."""
    prepare(tmp_path / "kept", records)
    Image.new("RGB", (60, 50), (250, 0, 0)).save(records[7].image_path)
    kept = make_dataset(records=records, prepared=PreparedImages(tmp_path / "kept"))
    plain = make_dataset(records=records)
    for index in (6, 7):
        assert torch.equal(kept.evaluation_sample(index, 0).pixels, plain.evaluation_sample(index, 0).pixels)


def test_maps_are_not_copied_to_workers(records: list[Record], tmp_path: Path) -> None:
    """What is pickled for a worker process holds no pixels, and finds them again."""
    prepare(tmp_path / "kept", records)
    found = PreparedImages(tmp_path / "kept")
    before = len(pickle.dumps(found))
    pixels = found.pixels(records[0])
    again = pickle.loads(pickle.dumps(found))
    assert len(pickle.dumps(found)) == before
    assert np.array_equal(again.pixels(records[0]), pixels)


def test_a_folder_for_each_place_and_size(tmp_path: Path) -> None:
    """Two data sets of one name, and two sizes, are kept apart; the same place by another way is the same."""
    first, second = tmp_path / "a" / "data", tmp_path / "b" / "data"
    for path in (first, second):
        path.mkdir(parents=True)
    folders = {prepared_folder(tmp_path, root, side) for root in (first, second) for side in (76, 304)}
    assert len(folders) == 4
    assert prepared_folder(tmp_path, first / ".." / "data", 76) == prepared_folder(tmp_path, first, 76)


def test_words_are_kept_for_just_these_captions(records: list[Record], tmp_path: Path) -> None:
    """In the order of the captions; a caption that has changed since, or one less, asks for the words anew."""
    folder = tmp_path / "kept"
    prepare(folder, records)
    assert PreparedImages(folder).vocabulary(records) is None
    keep_vocabulary(folder, records)
    expected = Vocabulary.build(caption for record in records for caption in record.captions)
    assert PreparedImages(folder).vocabulary(records).words == expected.words
    changed = [dataclasses.replace(records[0], captions=("another word", *records[0].captions[1:])), *records[1:]]
    for other in (changed, records[1:], records[::-1]):
        assert PreparedImages(folder).vocabulary(other) is None


def test_captions_without_a_word_leave_no_vocabulary(records: list[Record], tmp_path: Path) -> None:
    silent = [dataclasses.replace(record, captions=("???",)) for record in records]
    keep_vocabulary(tmp_path, silent)
    assert PreparedImages(tmp_path).vocabulary(silent) is None
