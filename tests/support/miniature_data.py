"""Miniatures of the data sets of the field, made of noise: 12 training and 6 test images with two captions each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from python2_pickle import python2_pickle

WORDS = ["<end>", "a", "bird", "with", "red", "blue", "green", "wings", "unseen"]
TRAIN = [f"{1 + n // 4:03d}.Train/Bird_{n}" for n in range(12)]
TEST = [f"{4 + n // 3:03d}.Test/Bird_{12 + n}" for n in range(6)]
CLASSES = ["001.Train", "002.Train", "003.Train", "004.Test", "005.Test"]


def captions_of(number: int) -> list[list[int]]:
    """Two captions of an image, as indices of WORDS."""
    return [[1, 2, 3, 4 + number % 3, 7], [4 + number % 3, 7]]


def make_cub(root: Path) -> None:
    """CUB-200-2011 from its public archive."""
    _write_birds(root)
    (root / "classes.txt").write_text(_lines(CLASSES))
    (root / "image_class_labels.txt").write_text(_lines(str(int(key[:3])) for key in TRAIN + TEST))
    for number, key in enumerate(TRAIN + TEST):
        path = root / "text" / f"{key}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{_text(caption)}.\n" for caption in captions_of(number)))
    (root / "trainvalclasses.txt").write_text("\n".join(CLASSES[:3]))
    (root / "testclasses.txt").write_text("\n".join(CLASSES[3:]))


def make_coco(root: Path) -> None:
    """COCO 2014 from its public archives."""
    for part, numbers in (("train2014", range(12)), ("val2014", range(12, 18))):
        names = {number: f"COCO_{part}_{number:012d}.jpg" for number in numbers}
        for number, name in names.items():
            _draw(root / part / name, number)
        content = {
            "images": [{"id": number, "file_name": name} for number, name in names.items()],
            "annotations": [{"image_id": n, "caption": _text(caption)} for n in numbers for caption in captions_of(n)],
        }
        path = root / "annotations" / f"captions_{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def make_attngan(root: Path) -> None:
    """data/birds of the released AttnGAN and DM-GAN code."""
    _write_birds(root / "CUB_200_2011")
    _write_metadata(root, "captions.pickle", {"train": TRAIN, "test": TEST})
    for split, keys in (("train", TRAIN), ("test", TEST)):
        (root / split / "class_info.pickle").write_bytes(python2_pickle([int(key[:3]) for key in keys]))


def make_dfgan(root: Path) -> None:
    """data/coco of DF-GAN's code."""
    keys = {"train": [f"COCO_train2014_{n:012d}" for n in range(12)], "val": [f"COCO_val2014_{n}" for n in range(6)]}
    _write_metadata(root, "captions_DAMSM.pickle", keys)
    for split, part in (("train", "train2014"), ("val", "val2014")):
        for number, key in enumerate(keys[split]):
            _draw(root / "images" / part / f"{key}.jpg", number)


MINIATURES: dict[str, Callable[[Path], None]] = {
    "cub": make_cub,
    "coco": make_coco,
    "attngan": make_attngan,
    "dfgan": make_dfgan,
}


def _write_birds(base: Path) -> None:
    """What both layouts of CUB have in common."""
    names = [f"{key}.jpg" for key in TRAIN + TEST]
    for number, name in enumerate(names):
        _draw(base / "images" / name, number)
    (base / "images.txt").write_text(_lines(names))
    (base / "bounding_boxes.txt").write_text(_lines("10.0 8.0 30.0 25.0" for _ in names))


def _write_metadata(root: Path, captions: str, keys: dict[str, list[str]]) -> None:
    train, test = keys.values()
    for split, names in keys.items():
        (root / split).mkdir(parents=True)
        (root / split / "filenames.pickle").write_bytes(python2_pickle(names))
    indexed = [[c for n in numbers for c in captions_of(n)] for numbers in (range(len(train)), range(len(test)))]
    words = dict(enumerate(WORDS))
    (root / captions).write_bytes(python2_pickle([*indexed, words, {word: index for index, word in words.items()}]))


def _draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (44, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _text(caption: list[int]) -> str:
    return " ".join(WORDS[index] for index in caption)


def _lines(values: object) -> str:
    return "".join(f"{number} {value}\n" for number, value in enumerate(values, 1))
