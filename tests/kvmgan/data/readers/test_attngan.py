"""The reader of AttnGAN's, DM-GAN's and DF-GAN's metadata: layout, captions by index, and what can be wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from python2_pickle import python2_pickle

from kvmgan.data.readers.attngan import read_attngan, read_vocabulary
from kvmgan.data.readers.layouts import find_layout
from kvmgan.errors import UserError

WORDS = {0: "<end>", 1: "this", 2: "bird", 3: "red", 4: "crown", 5: "wei\xdf"}
TRAIN, TEST = ["001.Auk/Auk_1", "003.Jay/Jay_1"], ["002.Owl/Owl_1"]
# Two captions for each of two keys, and for one.
CAPTIONS = [[[1, 2], [2, 3, 4], [3], [4, 4, 5]], [[1, 2, 3, 4], [2]]]


def write_pickle(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle(content))


def write_captions(path: Path, captions: list = CAPTIONS, words: dict[int, str] = WORDS) -> None:
    write_pickle(path, [*captions, words, {word: index for index, word in words.items()}])


@pytest.fixture
def birds_root(tmp_path: Path) -> Path:
    """data/birds of the released code."""
    write_pickle(tmp_path / "train" / "filenames.pickle", TRAIN)
    write_pickle(tmp_path / "test" / "filenames.pickle", TEST)
    write_pickle(tmp_path / "train" / "class_info.pickle", [1, 3])
    # As arrays: numbers of NumPy, whose bytes Python 2 writes as text.
    (tmp_path / "test" / "class_info.pickle").write_bytes(pickle.dumps([np.int64(2)], 2))
    write_captions(tmp_path / "captions.pickle")
    birds = tmp_path / "CUB_200_2011"
    birds.mkdir()
    names = [f"{key}.jpg" for key in (TRAIN[0], TEST[0], TRAIN[1])]
    (birds / "images.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(names, 1)))
    (birds / "bounding_boxes.txt").write_text("1 1.0 2.0 30.0 40.0\n2 0 0 9 9\n3 5.5 6.5 7.5 8.5\n")
    for name in names:
        (birds / "images" / name).parent.mkdir(parents=True)
        Image.new("RGB", (50, 50)).save(birds / "images" / name)
    return tmp_path


def test_birds_of_the_released_code(birds_root: Path) -> None:
    """Keys, classes, boxes and captions; images lie in CUB's own folder."""
    assert find_layout(birds_root) == "attngan"
    train, test = read_attngan(birds_root, "train"), read_attngan(birds_root, "test")
    assert [record.key for record in train] == TRAIN
    assert [record.key for record in test] == TEST
    assert [record.class_id for record in train + test] == [1, 3, 2]
    assert train[0].captions == ("this bird", "bird red crown")
    assert train[1].captions == ("red", "crown crown wei\xdf")
    assert test[0].captions == ("this bird red crown", "bird")
    assert [record.box for record in train] == [(1.0, 2.0, 30.0, 40.0), (5.5, 6.5, 7.5, 8.5)]
    assert all(record.image_path.exists() for record in train + test)


def test_the_vocabulary_keeps_its_order(birds_root: Path) -> None:
    """Index 0 is the padding; captions are encoded to the indices that they were written by."""
    vocabulary = read_vocabulary(birds_root / "captions.pickle")
    assert vocabulary.words == ["<end>", "this", "bird", "red", "crown", "wei\xdf"]
    indices = [vocabulary.encode(text) for record in read_attngan(birds_root, "train") for text in record.captions[:1]]
    assert indices == [CAPTIONS[0][0], CAPTIONS[0][2]]


def test_padding_in_a_caption_is_no_word(birds_root: Path) -> None:
    """Index 0 stands for "<end>", of which the tokens would make a word."""
    write_captions(birds_root / "captions.pickle", [[[1, 2, 0, 0], [2], [3], [4]], [[1]]])
    assert read_attngan(birds_root, "train")[0].captions == ("this bird", "bird")


def test_coco_of_the_released_code(tmp_path: Path) -> None:
    """Images lie flat, there are no boxes, and every image is a class of its own."""
    write_pickle(tmp_path / "train" / "filenames.pickle", ["COCO_train2014_9", "COCO_train2014_4"])
    write_pickle(tmp_path / "test" / "filenames.pickle", ["COCO_val2014_1"])
    write_captions(tmp_path / "captions.pickle")
    train = read_attngan(tmp_path, "train")
    assert [(r.key, r.class_id, r.box) for r in train] == [("COCO_train2014_9", 0, None), ("COCO_train2014_4", 1, None)]
    assert train[0].image_path == tmp_path / "images" / "COCO_train2014_9.jpg"


def test_the_variant_of_df_gan(tmp_path: Path) -> None:
    """captions_DAMSM.pickle, a split val, and images in folders of COCO's parts."""
    write_pickle(tmp_path / "train" / "filenames.pickle", ["COCO_train2014_9", "COCO_train2014_4"])
    write_pickle(tmp_path / "val" / "filenames.pickle", ["COCO_val2014_1"])
    write_captions(tmp_path / "captions_DAMSM.pickle")
    for name in ("train2014/COCO_train2014_9", "val2014/COCO_val2014_1"):
        path = tmp_path / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True)
        path.touch()
    assert find_layout(tmp_path) == "attngan"
    folders = [read_attngan(tmp_path, split)[0].image_path.parent.name for split in ("train", "test")]
    assert folders == ["train2014", "val2014"]


def test_captions_as_text(birds_root: Path) -> None:
    """Where no captions.pickle was made yet, as by the released code's first run."""
    (birds_root / "captions.pickle").unlink()
    for key in TRAIN + TEST:
        path = birds_root / "text" / f"{key}.txt"
        path.parent.mkdir(parents=True)
        path.write_text(f"a bird, {key}\n\nanother\n")
    assert read_attngan(birds_root, "train")[1].captions == ("a bird, 003.Jay/Jay_1", "another")
    (birds_root / "text" / f"{TRAIN[0]}.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"Auk_1\.txt is empty"):
        read_attngan(birds_root, "train")


def _pickled(name: str, content: Any) -> Callable[[Path], None]:
    return lambda root: write_pickle(root / name, content)


def _captions(*arguments: Any) -> Callable[[Path], None]:
    return lambda root: write_captions(root / "captions.pickle", *arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # The released code goes on with an empty list and keeps a vocabulary of one word.
        (lambda root: (root / "train" / "filenames.pickle").unlink(), r"filenames\.pickle is missing"),
        (lambda root: (root / "captions.pickle").unlink(), r"captions\.pickle or captions_DAMSM\.pickle is missing"),
        (_pickled("train/filenames.pickle", []), r"filenames\.pickle holds no keys"),
        (_pickled("train/filenames.pickle", [1, 2]), r"filenames\.pickle holds no keys"),
        (_pickled("train/filenames.pickle", {"a": 1}), r"filenames\.pickle holds no keys"),
        (_pickled("train/filenames.pickle", ["../a", "b"]), r"'\.\./a' must be a path inside"),
        (_pickled("train/filenames.pickle", ["/a", "b"]), "'/a' must be a path inside"),
        (_pickled("train/filenames.pickle", [TRAIN[0]] * 2), "names '001.Auk/Auk_1' more than once"),
        (_pickled("test/filenames.pickle", [TRAIN[1]]), "both splits name '003.Jay/Jay_1'"),
        (_pickled("train/filenames.pickle", [*TRAIN, "004.Emu/Emu_1"]), r"has 4 captions for the 3 images"),
        (_pickled("train/filenames.pickle", [TRAIN[0], "004.Emu/Emu_1"]), r"doesn't list 004\.Emu/Emu_1\.jpg"),
        (_pickled("train/class_info.pickle", [1]), "has 1 class numbers for the 2 images"),
        (_pickled("train/class_info.pickle", ["a", "b"]), "holds no class numbers"),
        (_pickled("captions.pickle", [[], []]), r"is no captions\.pickle"),
        (_pickled("captions.pickle", {"a": 1}), r"is no captions\.pickle"),
        (_captions([[], []]), "has 0 captions for the 2 images"),
        (_captions([[[1], [2], [3], [6]], [[1]]]), r"holds the caption \[6\]: expected indices of its 6 words"),
        (_captions([[[1], [2], [3], [-1]], [[1]]]), r"holds the caption \[-1\]"),
        (_captions([[[1], [2], [3], ["a"]], [[1]]]), r"holds the caption \['a'\]"),
        (_captions(CAPTIONS, {0: "<end>", 2: "bird"}), "gaps among the indices"),
        (_captions(CAPTIONS, {0: "<end>", 1: 5}), "words that are no text"),
        (lambda root: (root / "captions.pickle").write_bytes(pickle.dumps([1])[:-2]), "is a damaged pickle"),
        (lambda root: (root / "captions.pickle").write_bytes(pickle.dumps(Path("a"), 2)), "asks for pathlib"),
    ],
)
def test_what_is_wrong_is_named(birds_root: Path, change: Callable[[Path], None], message: str) -> None:
    """Nothing is filled in, cut off or built anew in silence."""
    change(birds_root)
    with pytest.raises(UserError, match=message):
        read_attngan(birds_root, "train")


@pytest.mark.parametrize(
    ("words", "message"), [({0: "bird", 1: "red"}, "word 0 is 'bird', expected the padding"), ({0: "<end>"}, "empty")]
)
def test_a_vocabulary_that_is_none(birds_root: Path, words: dict[int, str], message: str) -> None:
    write_captions(birds_root / "captions.pickle", [[], []], words)
    with pytest.raises(UserError, match=message):
        read_vocabulary(birds_root / "captions.pickle")
