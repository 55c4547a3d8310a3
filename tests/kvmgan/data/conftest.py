"""Small data sets that the tests of the readers, the dataset and the batches share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.procedural.archive import BirdsSettings, ensure_birds
from kvmgan.data.readers.cub import read_cub
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def birds_settings() -> BirdsSettings:
    """A few small birds."""
    return BirdsSettings(classes=8, test_classes=2, images_per_class=4, captions_per_image=3, image_size=48, seed=5)


@pytest.fixture(scope="session")
def birds_root(tmp_path_factory: pytest.TempPathFactory, birds_settings: BirdsSettings) -> Path:
    """A folder of procedural birds, to be read only."""
    return ensure_birds(tmp_path_factory.mktemp("birds"), birds_settings)


@pytest.fixture(scope="session")
def birds_records(birds_root: Path) -> list[Record]:
    """The training records of the folder of birds."""
    return read_cub(birds_root, "train")


@pytest.fixture(scope="session")
def birds_vocabulary(birds_records: list[Record]) -> Vocabulary:
    """The words of the training captions."""
    return Vocabulary.build(caption for record in birds_records for caption in record.captions)


@pytest.fixture
def make_dataset(birds_records: list[Record], birds_vocabulary: Vocabulary) -> Callable[..., TextImageDataset]:
    """A dataset of the birds with any option changed."""

    def make(**options: object) -> TextImageDataset:
        defaults = {"records": birds_records, "vocabulary": birds_vocabulary}
        defaults |= {"sizes": (8, 16, 32), "max_words": 6}
        return TextImageDataset(**{**defaults, **options})

    return make


@pytest.fixture
def make_image() -> Callable[..., Path]:
    """Writes an RGB image of random pixels and returns its path."""

    def make(path: Path, width: int = 40, height: int = 32) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return make
