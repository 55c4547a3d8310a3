"""COCO 2014 captions (Lin et al., 2014) from its public archives.

::

    root/
        annotations/captions_train2014.json   (or captions_train2014.json)
        annotations/captions_val2014.json
        train2014/COCO_train2014_000000000009.jpg ...
        val2014/...                           the test split
"""

from __future__ import annotations

import logging
from collections.abc import Container
from pathlib import Path, PurePosixPath
from typing import Any

from kvmgan.data.records import Record, Split, check_split, collected
from kvmgan.errors import UserError
from kvmgan.files import read_json

_PARTS = {"train": "train2014", "test": "val2014"}
_log = logging.getLogger(__name__)


def read_coco(
    root: Path, split: Split, encoding: str | None = None, problems: list[UserError] | None = None
) -> list[Record]:
    """Return the images that have captions, in the order of their ids; every image is a class of its own.

    "test" reads val2014. An image file that is missing is left to `TextImageDataset`, which skips and counts it;
    captions of images that aren't listed, as in a subset, are left out with a warning.
    ``encoding``: of a file that is no UTF-8.
    Raises `UserError` naming the file or folder that is missing or malformed, and an image that is listed twice;
    ``problems``, where it is given, takes what is wrong with single images and captions instead.
    """
    check_split(split)
    root, part = Path(root), _PARTS[split]
    folder = root / part
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: it should hold the images of COCO's {part}.zip")
    path = root / "annotations" / f"captions_{part}.json"
    if not path.exists() and (root / path.name).exists():
        path = root / path.name
    content = read_json(path, "COCO's captions", encoding)
    names = _image_names(path, _entries(path, content, "images"), problems)
    captions = _captions(path, _entries(path, content, "annotations"), names, problems)
    described = sorted(captions)
    if not described:
        raise UserError(f"{path} holds no caption of an image that it lists")
    return [
        Record(f"{part}/{names[number].with_suffix('')}", folder / names[number], class_id, tuple(captions[number]))
        for class_id, number in enumerate(described)
    ]


def _entries(path: Path, content: Any, name: str) -> list[dict[str, Any]]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path} isn't COCO's captions file: expected 'images' and 'annotations', lists of objects")
    return entries


def _image_names(
    path: Path, images: list[dict[str, Any]], problems: list[UserError] | None
) -> dict[int, PurePosixPath]:
    """Return the path of every image in the folder of its part by its id."""
    names: dict[int, PurePosixPath] = {}
    for entry in images:
        with collected(problems):
            number, name = _value(path, "image", entry, "id", int), _value(path, "image", entry, "file_name", str)
            if number in names:
                raise UserError(f"{path} lists the image {number} twice")
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise UserError(f"{path}: the file {name!r} of image {number} must be a path inside the images' folder")
            names[number] = PurePosixPath(name)
    return names


def _captions(
    path: Path, annotations: list[dict[str, Any]], names: Container[int], problems: list[UserError] | None
) -> dict[int, list[str]]:
    """Return the captions of every image that is listed, in their order."""
    captions: dict[int, list[str]] = {}
    strays = 0
    for entry in annotations:
        with collected(problems):
            number = _value(path, "annotation", entry, "image_id", int)
            text = _value(path, "annotation", entry, "caption", str).strip()
            if number not in names:
                strays += 1
            elif text:
                captions.setdefault(number, []).append(text)
    if strays:
        message = f"{path}: {strays} captions of images that it doesn't list are left out"
        _log.warning(message) if problems is None else problems.append(UserError(message))
    return captions


def _value(path: Path, kind: str, entry: dict[str, Any], name: str, wanted: type) -> Any:
    if type(entry.get(name)) is not wanted:
        expected = "a whole number" if wanted is int else "text"
        raise UserError(f"{path}: the {kind} {str(entry)[:80]} has the {name} {entry.get(name)!r}, expected {expected}")
    return entry[name]
