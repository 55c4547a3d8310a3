"""Writes the procedural birds to disk in the layout of CUB-200-2011, with the truth about every attribute beside it.

`kvmgan.data.readers.cub` reads the result like the real data set. In addition to CUB's files there are:

- ``settings.json``: the `BirdsSettings` and the version of the drawings,
- ``attributes.json``: attribute name -> its values,
- ``image_attributes.jsonl``: one ``{"key": ..., "attributes": {name: value}}`` an image,
- ``caption_attributes.jsonl``: one ``{"key": ..., "named": [[name, ...], ...]}`` an image, one list a caption.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kvmgan.bounds import SEED_LIMIT
from kvmgan.data.procedural.attributes import ATTRIBUTES, IMAGE_ATTRIBUTES, Species, make_species
from kvmgan.data.procedural.drawing import Drawing, draw_bird_with_box
from kvmgan.data.procedural.grammar import write_caption
from kvmgan.errors import UserError
from kvmgan.files import read_json, read_lines

# Raise it whenever the same settings give other drawings or captions, so that no old folder is taken for a new one.
_DRAWING_VERSION = 1
_MIN_IMAGE_SIZE = 32


@dataclass(frozen=True)
class BirdsSettings:
    """What the data set holds: a pure function of these numbers. Raises `UserError` for an impossible one."""

    classes: int = 200
    """Species in all [species]."""
    test_classes: int = 50
    """Species among them that are in the test split only [species]."""
    images_per_class: int = 40
    """Drawings of every species [images]."""
    captions_per_image: int = 10
    """Captions of every drawing [captions]."""
    image_size: int = 80
    """Side of the square drawings [pixels]; larger ones than the model draws leave room for the random crop."""
    seed: int = 0
    """Seed of species, drawings and captions: 0 to 2**63 - 1."""

    def __post_init__(self) -> None:
        limits = {"classes": 2, "test_classes": 1, "images_per_class": 1, "captions_per_image": 1, "seed": 0}
        for name, least in {**limits, "image_size": _MIN_IMAGE_SIZE}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: expected at least {least}")
        # Below the limit a seed is at most two words of numpy's, and no two images or seeds share a stream.
        if self.seed >= SEED_LIMIT:
            raise UserError(f"seed={self.seed}: expected less than {SEED_LIMIT}")
        if self.test_classes >= self.classes:
            raise UserError(f"test_classes={self.test_classes}: expected fewer than classes={self.classes}")


@dataclass
class AttributeTruth:
    """The truth about a folder of procedural birds.

    values: attribute name -> its possible values, in the order of their indices.
    images: record key -> attribute name -> index of the value that the drawing shows.
    captions: record key -> for every caption of the record, the names of the attributes that it mentions.
    """

    values: dict[str, tuple[str, ...]]
    images: dict[str, dict[str, int]]
    captions: dict[str, list[tuple[str, ...]]]


@dataclass(frozen=True)
class _Bird:
    """One image to be: which species it is of, and everything about it but the pixels."""

    key: str
    class_number: int
    attributes: dict[str, str]
    captions: list[tuple[str, tuple[str, ...]]]


def ensure_birds(root: Path, settings: BirdsSettings, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder ``root/birds-<hash of settings>``, drawing the birds first unless it is complete already.

    progress: called with the number of images drawn and the total. The folder appears whole or not at all.
    Raises `UserError` when the folder holds something else or cannot be written.
    """
    folder = Path(root) / f"birds-{_fingerprint(settings)}"
    if folder.exists():
        _check_complete(folder, settings)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write_archive(temporary, settings, progress)
            temporary.chmod(0o755)
            _publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"the birds cannot be written to {folder}: {error.strerror or error}") from None
    _check_complete(folder, settings)
    return folder


def load_attributes(root: Path) -> AttributeTruth:
    """Read the truth about the folder that `ensure_birds` returned. Raises `UserError` if it is missing or broken."""
    root = Path(root)
    content = read_json(root / "attributes.json", "the attributes of the procedural birds")
    values = {name: tuple(options) for name, options in content.items()}
    try:
        images = {
            line["key"]: {name: values[name].index(value) for name, value in line["attributes"].items()}
            for line in _read_jsonl(root / "image_attributes.jsonl", "the attributes of every image")
        }
        captions = {
            line["key"]: [tuple(names) for names in line["named"]]
            for line in _read_jsonl(root / "caption_attributes.jsonl", "the attributes that every caption names")
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the attribute files in {root} don't fit each other ({error!r}): delete the folder") from None
    return AttributeTruth(values, images, captions)


def _fingerprint(settings: BirdsSettings) -> str:
    return hashlib.sha256(json.dumps(_stored_settings(settings), sort_keys=True).encode()).hexdigest()[:10]


def _stored_settings(settings: BirdsSettings) -> dict[str, int]:
    return {**asdict(settings), "version": _DRAWING_VERSION}


def _check_complete(folder: Path, settings: BirdsSettings) -> None:
    """Raise `UserError` unless `folder` was written whole with `settings` (its settings file is part of the rename)."""
    path = folder / "settings.json"
    if not path.is_file() or read_json(path, "the settings of the birds") != _stored_settings(settings):
        raise UserError(f"{folder} holds something other than the birds with these settings: move or delete it")


def _publish(temporary: Path, folder: Path) -> None:
    """Rename; if another process was quicker, its folder stands (it holds the same)."""
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise


def _write_archive(folder: Path, settings: BirdsSettings, progress: Callable[[int, int], None] | None) -> None:
    species = make_species(settings.classes, settings.test_classes, settings.seed)
    total = settings.classes * settings.images_per_class
    for kind in species:
        (folder / "images" / kind.name).mkdir(parents=True)
        (folder / "text" / kind.name).mkdir(parents=True)
    birds: list[_Bird] = []
    boxes: list[tuple[float, float, float, float]] = []
    for number, kind in enumerate(species, start=1):
        for image_number in range(1, settings.images_per_class + 1):
            bird, drawing = _make_bird(kind, number, image_number, settings)
            # Full colour resolution: halved chroma would wash out thin coloured beaks.
            drawing.image.save(folder / "images" / f"{bird.key}.jpg", quality=95, subsampling=0)
            _write_lines(folder / "text" / f"{bird.key}.txt", (text for text, _ in bird.captions))
            birds.append(bird)
            boxes.append(drawing.box)
            if progress is not None:
                progress(len(birds), total)
    _write_cub_lists(folder, species, birds, boxes)
    _write_truth(folder, birds)
    (folder / "settings.json").write_text(json.dumps(_stored_settings(settings), indent=1) + "\n")


def _make_bird(kind: Species, number: int, image_number: int, settings: BirdsSettings) -> tuple[_Bird, Drawing]:
    """Choose what varies by image, draw and describe it: a function of the seed and the two numbers alone."""
    rng = np.random.default_rng((settings.seed, number, image_number))
    varied = {name: str(rng.choice(ATTRIBUTES[name])) for name in IMAGE_ATTRIBUTES}
    attributes = {**kind.attributes, **varied}
    captions = [write_caption(attributes, rng) for _ in range(settings.captions_per_image)]
    stem = kind.name.partition(".")[2]
    bird = _Bird(f"{kind.name}/{stem}_{image_number:04d}", number, attributes, captions)
    return bird, draw_bird_with_box(attributes, settings.image_size, rng)


def _write_cub_lists(
    folder: Path, species: list[Species], birds: list[_Bird], boxes: list[tuple[float, float, float, float]]
) -> None:
    """Write the lists that CUB has beside its images, and the class names of the two splits."""
    numbered = list(enumerate(birds, start=1))
    _write_lines(folder / "images.txt", (f"{number} {bird.key}.jpg" for number, bird in numbered))
    _write_lines(folder / "image_class_labels.txt", (f"{number} {bird.class_number}" for number, bird in numbered))
    _write_lines(folder / "classes.txt", (f"{number} {kind.name}" for number, kind in enumerate(species, start=1)))
    _write_lines(
        folder / "bounding_boxes.txt",
        (f"{number} {' '.join(str(side) for side in box)}" for number, box in enumerate(boxes, start=1)),
    )
    _write_lines(folder / "trainvalclasses.txt", (kind.name for kind in species if not kind.is_test))
    _write_lines(folder / "testclasses.txt", (kind.name for kind in species if kind.is_test))


def _write_truth(folder: Path, birds: list[_Bird]) -> None:
    (folder / "attributes.json").write_text(json.dumps(ATTRIBUTES, indent=1) + "\n")
    _write_lines(
        folder / "image_attributes.jsonl",
        (json.dumps({"key": bird.key, "attributes": bird.attributes}) for bird in birds),
    )
    _write_lines(
        folder / "caption_attributes.jsonl",
        (json.dumps({"key": bird.key, "named": [names for _, names in bird.captions]}) for bird in birds),
    )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _read_jsonl(path: Path, purpose: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(path, purpose)]
