"""Shards on disk: the same pictures and captions, read by the library that they are made for, whole or not at all."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from kvmgan.data.pixels import decode
from kvmgan.data.readers.shards import read_shards
from kvmgan.data.records import Record
from kvmgan.data.shards.index import INDEX, ShardIndex
from kvmgan.data.shards.writing import write_shards
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError


def described(record: Record) -> tuple:
    """All of a record but where it lies."""
    return record.key, record.class_id, record.captions, record.box


def digests(folder: Path) -> dict[str, str]:
    """The hash of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_records_are_those_of_the_source(shards: Path, birds_records: list[Record]) -> None:
    """The test split in its order, training pictures in another; pixels and file sizes are the same."""
    train, test = (read_shards(shards, split) for split in ("train", "test"))
    assert [described(record) for record in test] == [described(record) for record in birds_records[19:]]
    source = {record.key: record for record in birds_records[:19]}
    assert [record.key for record in train] != list(source)
    assert {record.key: described(record) for record in train} == {k: described(r) for k, r in source.items()}
    for record in train[:7]:
        original = source[record.key].image_path
        assert record.image_path.read_bytes() == original.read_bytes()
        assert record.image_path.stat().st_size == original.stat().st_size
        assert np.array_equal(decode(record.image_path, record.box, 40), decode(original, record.box, 40))


def test_webdataset_reads_them(shards: Path) -> None:
    """By its own front door: pictures are pictures, what is known of them is JSON."""
    paths = sorted(str(path) for path in shards.glob("train-*.tar"))
    assert len(paths) == 4
    found = list(webdataset.WebDataset(paths, shardshuffle=False).decode("pil"))
    assert len(found) == 19
    for sample in found:
        picture = next(value for value in sample.values() if isinstance(value, Image.Image))
        assert picture.size[0] > 16 and sample["json"]["captions"]


def test_the_same_records_make_the_same_bytes(shards: Path, birds_records: list[Record], tmp_path: Path) -> None:
    """Whenever they are written; one caption changed is another digest."""
    splits = {"train": birds_records[:19], "test": birds_records[19:]}
    write_shards(tmp_path / "again", splits, None, 5, lambda: None)
    assert digests(tmp_path / "again") == digests(shards)
    changed = [dataclasses.replace(birds_records[0], captions=("a bird",)), *birds_records[1:19]]
    write_shards(tmp_path / "other", {**splits, "train": changed}, None, 5, lambda: None)
    first, second = (ShardIndex.load(folder).splits for folder in (shards, tmp_path / "other"))
    assert first["train"].digest != second["train"].digest and first["test"].digest == second["test"].digest


def test_shards_of_shards(shards: Path, tmp_path: Path) -> None:
    """Of another size, from the members of the first ones."""
    splits = {split: read_shards(shards, split) for split in ("train", "test")}
    write_shards(tmp_path / "other", splits, None, 8, lambda: None)
    found = read_shards(tmp_path / "other", "train")
    assert sorted(map(described, found)) == sorted(map(described, splits["train"]))
    assert [shard.samples for shard in ShardIndex.load(tmp_path / "other").splits["train"].shards] == [8, 8, 3]


def test_a_vocabulary_that_is_given_is_kept(birds_records: list[Record], tmp_path: Path) -> None:
    """In its order, with the pictures that it has no word for left out."""
    words = Vocabulary(["wings", "bird", "a"])
    odd = dataclasses.replace(birds_records[3], captions=("xyzzy",))
    splits = {"train": [*birds_records[:3], odd], "test": birds_records[19:]}
    skipped = write_shards(tmp_path / "s", splits, words, 5, lambda: None)
    assert skipped == [(odd.image_path, "none of its captions holds a known word")]
    index = ShardIndex.load(tmp_path / "s")
    assert index.vocabulary.words == words.words and index.splits["train"].samples == 3


def test_a_picture_that_is_damaged_is_left_out(birds_records: list[Record], tmp_path: Path) -> None:
    """And named; a split without any is refused, and nothing stays."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(birds_records[0].image_path.read_bytes()[:300])
    broken = dataclasses.replace(birds_records[0], image_path=bad)
    splits = {"train": [broken, *birds_records[1:4]], "test": birds_records[19:]}
    ((path, reason),) = write_shards(tmp_path / "s", splits, None, 5, lambda: None)
    assert path == bad and "decoded" in reason
    with pytest.raises(UserError, match="none of the train images"):
        write_shards(tmp_path / "t", {**splits, "train": [broken]}, None, 5, lambda: None)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.jpg", "s"]


def test_a_folder_that_holds_something_is_refused(shards: Path, birds_records: list[Record]) -> None:
    """Nothing in it is touched."""
    before = digests(shards)
    with pytest.raises(UserError, match="isn't empty"):
        write_shards(shards, {"train": birds_records, "test": birds_records}, None, 5, lambda: None)
    assert digests(shards) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(version=2), "version 2, expected 1"),
        (lambda index: index.update(words=[]), "vocabulary is empty"),
        (lambda index: index["splits"].pop("test"), "no list of shards"),
        (lambda index: index["splits"]["train"].update(shards=[]), "no list of shards"),
        (lambda index: index["splits"]["train"]["shards"][0].update(name="../x.tar"), "outside the folder"),
        (lambda index: index["splits"]["train"]["shards"][0].update(samples=0), "no list of shards"),
        (lambda index: index["splits"]["train"]["shards"][0].update(samples=4), "holds 5 pictures, expected 4"),
        (lambda index: index["splits"]["train"]["shards"][0].update(bytes=4), "bytes, expected 4"),
        (lambda index: index["splits"]["train"]["shards"][0].update(name="gone.tar"), "gone.tar can't be read"),
    ],
)
def test_a_list_that_does_not_fit(shards: Path, change: object, message: str) -> None:
    """What it says wrong, or no longer, is named."""
    index = json.loads((shards / INDEX).read_text())
    change(index)
    (shards / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        read_shards(shards, "train")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}'])
def test_a_list_that_is_none(shards: Path, text: str) -> None:
    """One line, naming the file."""
    (shards / INDEX).write_text(text)
    with pytest.raises(UserError, match=INDEX):
        ShardIndex.load(shards)
