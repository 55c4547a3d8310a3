"""A user's own images: a folder with a caption file each, or with one ``captions.jsonl``.

Hidden files and folders don't count, nor what systems leave behind (``__MACOSX``, ``@eaDir``).

::

    root/a.png   root/a.txt   root/more/b.jpg   root/more/b.txt      one caption a line, or

    root/captions.jsonl          {"image": "a.png", "captions": ["...", "..."]} a line
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kvmgan.data.records import IMAGE_SUFFIXES, Record, Split, check_split, collected
from kvmgan.errors import MissingFileError, UserError
from kvmgan.files import read_lines

CAPTION_LIST = "captions.jsonl"
# Fixed: the two splits of a folder must never overlap, whatever the seed of a run.
_SPLIT_SEED = 0
_TEST_SHARE = 0.1
# Folders that systems leave behind, some with small images of images, in lower case: macOS's archives, Synology's
# previews, the recycle bins of Windows and Synology, and what a check of the file system found.
_LITTER = {"__macosx", "@eadir", "$recycle.bin", "#recycle", "system volume information", "lost+found"}


def read_folder(
    root: Path, split: Split, encoding: str | None = None, problems: list[UserError] | None = None
) -> list[Record]:
    """Return the images of one split in the order of their keys; every image is a class of its own.

    The sorted images are shuffled with a fixed seed; the last tenth (at least one) is the test split. ``encoding``: of
    captions that are no UTF-8.
    Raises `UserError` naming what is missing or malformed: captions of an image, an image of ``captions.jsonl``,
    or all but one image; ``problems``, where it is given, takes what is wrong with single images instead.
    """
    check_split(split)
    root = Path(root)
    check_folder(root)
    read = _read_list if (root / CAPTION_LIST).exists() else _read_pairs
    described = read(root, encoding, problems)
    if len(described) < 2:
        raise UserError(f"{root} holds {len(described)} captioned images: at least two are needed, one for each split")
    names = sorted(described)
    records = [Record(_key(name), root / name, class_id, described[name]) for class_id, name in enumerate(names)]
    _check_keys(records)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(records))
    tests = max(1, int(len(records) * _TEST_SHARE))
    chosen = order[-tests:] if split == "test" else order[:-tests]
    return [records[number] for number in sorted(chosen.tolist())]


def check_folder(root: Path) -> None:
    """Raise `UserError` unless `root` is a folder: it is missing, or a file is in its place."""
    if not root.exists():
        raise UserError(f"{root} is missing: it should be a folder of images with captions")
    if not root.is_dir():
        raise UserError(f"{root} is a file: it should be a folder of images with captions")


def find_images(root: Path) -> Iterator[Path]:
    """Yield the image files anywhere below `root`, one folder after the other; what is hidden in it is passed over."""
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name.lower() not in _LITTER)
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path


def _key(name: str) -> str:
    return name[: -len(Path(name).suffix)]


def _check_keys(records: list[Record]) -> None:
    seen: dict[str, Path] = {}
    for record in records:
        other = seen.setdefault(record.key, record.image_path)
        if other != record.image_path:
            raise UserError(f"{other} and {record.image_path} differ in their ending only: rename one")


def _read_pairs(root: Path, encoding: str | None, problems: list[UserError] | None) -> dict[str, tuple[str, ...]]:
    """Return the captions of every image under `root` by its path inside it."""
    paths = sorted(find_images(root))
    if not paths:
        raise UserError(f"{root} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    if not any(path.with_suffix(".txt").exists() for path in paths):
        raise UserError(
            f"{root} holds {len(paths)} images but no captions: write those of {paths[0].name} into "
            f"{paths[0].with_suffix('.txt')}, one a line, or those of all into {root / CAPTION_LIST}"
        )
    described = {}
    for path in paths:
        with collected(problems):
            captions = tuple(read_lines(path.with_suffix(".txt"), f"the captions of {path.name}, one a line", encoding))
            if not captions:
                raise UserError(f"{path.with_suffix('.txt')} is empty: it should hold the captions of {path.name}")
            described[path.relative_to(root).as_posix()] = captions
    return described


def _read_list(root: Path, encoding: str | None, problems: list[UserError] | None) -> dict[str, tuple[str, ...]]:
    """Return the captions of every image that ``captions.jsonl`` names."""
    path = root / CAPTION_LIST
    described: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(read_lines(path, "one JSON object a line", encoding), start=1):
        with collected(problems):
            name, captions = _parse(line, f"{path}, entry {number}")
            if not (root / name).is_file():
                raise MissingFileError(f"{path}, entry {number}: the image {root / name} is missing")
            if name in described:
                raise UserError(f"{path}, entry {number}: the image {name} comes twice")
            described[name] = captions
    return described


def _parse(line: str, where: str) -> tuple[str, tuple[str, ...]]:
    expected = 'expected {"image": "name.png", "captions": ["...", ...]}'
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        raise UserError(f"{where} is not valid JSON: {expected}") from None
    name, captions = (entry.get("image"), entry.get("captions")) if isinstance(entry, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise UserError(f"{where}: {expected}")
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{where}: {name!r} is no image file ({', '.join(IMAGE_SUFFIXES)})")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{where}: {name!r} must be a path inside the folder")
    captions = [caption.strip() for caption in captions if caption.strip()]
    if not captions:
        raise UserError(f"{where}: the image {name} has no caption")
    return Path(name).as_posix(), tuple(captions)
