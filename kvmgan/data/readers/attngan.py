"""CUB or COCO with the metadata of AttnGAN (Xu et al., 2018) and DM-GAN, or with DF-GAN's (Tao et al., 2022).

::

    root/                              data/birds or data/coco of the released code
        train/filenames.pickle         keys of the training images, such as "001.Name/Name_0001"
        test/filenames.pickle          (or val/) keys of the others
        train/class_info.pickle        class number of each; without it every image is a class of its own
        captions.pickle                (or captions_DAMSM.pickle) [train captions, test captions, words by index,
                                       indices by word]; a caption is its words' indices, K follow for each key
        text/<key>.txt                 captions, one a line, where there is no captions.pickle
        images/<key>.jpg               (or images/train2014/, images/val2014/), or for birds
        CUB_200_2011/                  images/<key>.jpg, images.txt, bounding_boxes.txt
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kvmgan.data.readers.cub import find_box, read_box_lines, read_captions, read_image_names
from kvmgan.data.readers.safe_pickle import load_pickle
from kvmgan.data.records import Record, Split, check_split, collected
from kvmgan.data.vocabulary import PADDING, Vocabulary
from kvmgan.errors import UserError

CAPTION_FILES = ("captions.pickle", "captions_DAMSM.pickle")
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
_IMAGE_FOLDERS = {"train": ("", "train2014"), "test": ("", "val2014")}


def read_attngan(
    root: Path, split: Split, encoding: str | None = None, problems: list[UserError] | None = None
) -> list[Record]:
    """Return the records of one split in the order of its ``filenames.pickle``.

    Captions of ``captions.pickle`` come as the words that their indices stand for. An image file that is missing is
    left to `TextImageDataset`, which skips and counts it. ``encoding``: of captions in ``text/`` that are no UTF-8.
    Raises `UserError` naming any other file that is missing, damaged or of another size than the others, and a key
    that both splits have; ``problems``, where it is given, takes what is wrong with single images instead.
    """
    check_split(split)
    root = Path(root)
    keys = _read_keys(root, split)
    _check_other_split(root, split, keys)
    path = caption_file(root)
    if path is None and not (root / "text").is_dir():
        names = " or ".join(CAPTION_FILES)
        raise UserError(f"{root / names} is missing, and so is {root / 'text'}, the captions as <key>.txt")
    indexed = _read_indexed(path, split, len(keys)) if path else None
    classes = _read_classes(root, split, len(keys))
    birds = root / "CUB_200_2011"
    numbers, boxes = _read_lists(birds) if birds.is_dir() else ({}, {})
    images = (birds if birds.is_dir() else root) / "images"
    folder = _image_folder(images, split, keys[0])
    records = []
    for number, key in enumerate(keys):
        with collected(problems):
            name = f"{key}.jpg"
            if numbers and name not in numbers:
                raise UserError(f"{birds / 'images.txt'} doesn't list {name}, which {split}/filenames.pickle names")
            captions = indexed[number] if indexed else read_captions(root / "text" / f"{key}.txt", encoding)
            box = find_box(boxes, numbers[name], birds) if numbers else None
            records.append(Record(key, folder / name, classes[number], captions, box))
    return records


def caption_file(root: Path) -> Path | None:
    """Return the path of the captions with their vocabulary, where there is one."""
    return next((root / name for name in CAPTION_FILES if (root / name).is_file()), None)


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the words of a ``captions.pickle`` in its order, which released weights know and no other would fit.

    Raises `UserError` when the file is missing, damaged or something else.
    """
    words = _words(path, _read_pickle(path))
    if words[0] != PADDING:
        raise UserError(f"{path}: word 0 is {words[0]!r}, expected the padding {PADDING!r}")
    return Vocabulary(words[1:])


def _read_lists(birds: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the numbers of CUB's images by their names, and the lines of their boxes by number."""
    return {name: number for number, name in read_image_names(birds).items()}, read_box_lines(birds)


def _read_keys(root: Path, split: str) -> list[str]:
    path = _metadata(root, split, "filenames.pickle")
    keys = load_pickle(path, f"the keys of the {split} split's images")
    keys = [key.decode("latin1") if isinstance(key, bytes) else key for key in _sequence(keys)]
    if not keys or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{path} holds no keys of images, such as '001.Name/Name_0001'")
    outside = next((key for key in keys if key.startswith("/") or ".." in PurePosixPath(key).parts), None)
    if outside is not None:
        raise UserError(f"{path}: the key {outside!r} must be a path inside the folder of images")
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise UserError(f"{path} names {twice[0]!r} more than once")
    return keys


def _check_other_split(root: Path, split: Split, keys: Iterable[str]) -> None:
    """An image in both splits would be trained on and judged."""
    other = "test" if split == "train" else "train"
    if not _metadata(root, other, "filenames.pickle").exists():
        return
    shared = sorted(set(keys).intersection(_read_keys(root, other)))
    if shared:
        raise UserError(f"{root}: filenames.pickle of both splits name {shared[0]!r}: an image belongs to one split")


def _metadata(root: Path, split: str, name: str) -> Path:
    """The path of a split's file, in the first of the folders that it may have."""
    paths = [root / folder / name for folder in _SPLIT_FOLDERS[split]]
    return next((path for path in paths if path.exists()), paths[0])


def _read_classes(root: Path, split: str, count: int) -> list[int]:
    path = _metadata(root, split, "class_info.pickle")
    if not path.exists():
        return list(range(count))
    # Numbers of NumPy, whose bytes Python 2 wrote as text.
    classes = _sequence(load_pickle(path, "the class number of each image", strings="bytes"))
    if not all(_is_index(number) for number in classes):
        raise UserError(f"{path} holds no class numbers")
    if len(classes) != count:
        raise UserError(f"{path} has {len(classes)} class numbers for the {count} images of filenames.pickle")
    return [int(number) for number in classes]


def _read_indexed(path: Path, split: str, count: int) -> list[tuple[str, ...]]:
    """Return the captions of each of the `count` keys of a split."""
    content = _read_pickle(path)
    words = _words(path, content)
    flat = content[0 if split == "train" else 1]
    each, rest = divmod(len(flat), count)
    if rest or not each:
        raise UserError(
            f"{path} has {len(flat)} captions for the {count} images that {split}/filenames.pickle names: expected the "
            "same number for each"
        )
    texts = []
    for caption in flat:
        indices = list(_sequence(caption))
        if not all(_is_index(index) and 0 <= index < len(words) for index in indices):
            raise UserError(f"{path} holds the caption {str(indices)[:60]}: expected indices of its {len(words)} words")
        texts.append(" ".join(words[index] for index in indices if index))
    return [tuple(texts[start : start + each]) for start in range(0, len(texts), each)]


def _read_pickle(path: Path) -> list[Any]:
    content = load_pickle(path, "captions and their words")
    lists = isinstance(content, list | tuple) and len(content) == 4 and all(isinstance(c, list) for c in content[:2])
    if not lists or not isinstance(content[2], dict):
        raise UserError(f"{path} is no captions.pickle: expected [train captions, test captions, words, indices]")
    return list(content)


def _words(path: Path, content: list[Any]) -> list[str]:
    """Return the words by index."""
    by_index = content[2]
    if not by_index or set(by_index) != set(range(len(by_index))):
        raise UserError(f"{path} has gaps among the indices of its {len(by_index)} words")
    words = [by_index[index] for index in range(len(by_index))]
    if not all(isinstance(word, str) for word in words):
        raise UserError(f"{path} holds words that are no text")
    return words


def _image_folder(images: Path, split: str, first: str) -> Path:
    """The folder below ``images`` that the keys of a split start from."""
    folders = [images / name for name in _IMAGE_FOLDERS[split]]
    return next((folder for folder in folders if (folder / f"{first}.jpg").exists()), images)


def _sequence(content: Any) -> list[Any]:
    """A list's items; an array's, too. Anything else has none."""
    if isinstance(content, np.ndarray):
        content = content.tolist()
    return list(content) if isinstance(content, list | tuple) else []


def _is_index(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
