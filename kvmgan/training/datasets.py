"""The data of a run, from the options: both splits, the vocabulary and, for birds, the truth."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kvmgan.config import Options
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.procedural.archive import AttributeTruth, ensure_birds, load_attributes
from kvmgan.data.records import Record
from kvmgan.data.sources import load_records
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.training.progress import Progress


@dataclass
class Splits:
    """Train and test images with one vocabulary; ``truth`` holds the attributes of procedural birds, else None."""

    train: TextImageDataset
    test: TextImageDataset
    vocabulary: Vocabulary
    truth: AttributeTruth | None

    def digest(self) -> str:
        """Hash of what training sees: keys, classes, captions and file sizes of the train split, and the vocabulary."""
        digest = hashlib.sha256(repr(self.vocabulary.words).encode())
        for record in self.train.records:
            size = record.image_path.stat().st_size
            digest.update(repr((record.key, record.class_id, record.captions, record.box, size)).encode())
        return digest.hexdigest()


def data_root(options: Options, cache_dir: Path) -> Path:
    """Folder of the data; procedural birds are drawn below ``cache_dir`` if they aren't there yet."""
    if options.data.name != "birds":
        assert options.data.root is not None  # config.validate refuses such options
        return options.data.root
    bars: list[Progress] = []

    def follow(done: int, total: int) -> None:
        # The bar appears with the first drawing: none when all are there already.
        if not bars:
            bars.append(Progress("drawing birds", total))
        bars[0].advance(1)

    try:
        return ensure_birds(options.data.root or cache_dir / "data", options.data.birds, follow)
    finally:
        for bar in bars:
            bar.close()


def load_test_split(
    options: Options, root: Path, vocabulary: Vocabulary
) -> tuple[TextImageDataset, AttributeTruth | None]:
    """The test images in order, centre-cropped, and the truth of procedural birds."""
    truth = load_attributes(root) if options.data.name == "birds" else None
    return _dataset(load_records(options.data.name, root, "test"), vocabulary, options, train=False), truth


def load_splits(options: Options, root: Path, vocabulary: Vocabulary | None = None) -> Splits:
    """Read both splits; the vocabulary is built over train then test captions unless one is given.

    Raises:
        UserError: for missing or unusable data, or a batch larger than the train split.
    """
    records = load_records(options.data.name, root, "train")
    if vocabulary is None:
        everything = records + load_records(options.data.name, root, "test")
        vocabulary = Vocabulary.build(caption for record in everything for caption in record.captions)
    train = _dataset(records, vocabulary, options, train=True)
    for option in ("training", "damsm", "classifier"):
        batch_size = getattr(options, option).batch_size
        if batch_size > len(train):
            raise UserError(
                f"--{option}.batch-size is {batch_size}, but there are {len(train)} training images: lower it"
            )
    test, truth = load_test_split(options, root, vocabulary)
    return Splits(train, test, vocabulary, truth)


def _dataset(records: list[Record], vocabulary: Vocabulary, options: Options, *, train: bool) -> TextImageDataset:
    dataset = TextImageDataset(
        records,
        vocabulary,
        sizes=options.sizes,
        max_words=options.data.max_words,
        train=train,
        seed=options.training.seed,
    )
    for path, reason in dataset.skipped:
        print(f"warning: skipped {path}: {reason}")
    return dataset
