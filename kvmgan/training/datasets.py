"""The data of a run, from the settings: both splits, the vocabulary and, for birds, the truth."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from kvmgan.config import DataOptions, Options, validate
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import stored_side
from kvmgan.data.prepared import PreparedImages, prepared_folder
from kvmgan.data.procedural.archive import AttributeTruth, ensure_birds, load_attributes
from kvmgan.data.readers.attngan import caption_file, read_attngan, read_vocabulary
from kvmgan.data.readers.coco import read_coco
from kvmgan.data.readers.cub import read_cub
from kvmgan.data.readers.folder import read_folder
from kvmgan.data.readers.layouts import settle_layout
from kvmgan.data.readers.shards import read_shards
from kvmgan.data.records import Record, Split
from kvmgan.data.shards.images import ShardedImages
from kvmgan.data.shards.index import ShardIndex
from kvmgan.data.shards.library import webdataset
from kvmgan.data.streams import Images
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UndecodableError, UserError
from kvmgan.parallel import processes
from kvmgan.runs.progress import Progress

# The procedural birds lie on disk as CUB does.
_READERS = {
    "birds": read_cub,
    "attngan": read_attngan,
    "cub": read_cub,
    "coco": read_coco,
    "folder": read_folder,
    "shards": read_shards,
}


@dataclass
class Splits:
    """Train and test images with one vocabulary; ``truth`` holds the attributes of procedural birds, else None."""

    train: Images
    test: TextImageDataset
    vocabulary: Vocabulary
    truth: AttributeTruth | None

    @cached_property
    def digest(self) -> str:
        """Hash of what pretraining sees: keys, classes, captions and file sizes of both splits, and the vocabulary."""
        digest = hashlib.sha256(repr(self.vocabulary.words).encode())
        for text in itertools.chain(self.train.described(), self.test.described()):
            digest.update(text.encode())
        return digest.hexdigest()


def with_layout(data: DataOptions) -> DataOptions:
    """The settings with the layout found out where only a root is given, or where released metadata lies there.

    Raises:
        UserError: if the root is no folder, or holds no layout that is known.
    """
    if data.root is None:
        return data
    if not data.root.is_dir():
        raise UserError(f"the data folder {data.root} is missing: --data.root names the folder that holds the data")
    return replace(data, name=settle_layout(data.name, data.root))


def load_records(data: DataOptions, root: Path, split: Split, problems: list[UserError] | None = None) -> list[Record]:
    """The records of one split of the data in ``root``; drawn birds are read as CUB is.

    Args:
        problems: takes what is wrong with single images, which are then left out, instead of raising it.

    Raises:
        UserError: for whatever is missing in ``root``, or can't be decoded.
    """
    try:
        return _READERS[data.name](root, split, data.encoding, problems)
    except UndecodableError as error:
        raise UserError(f"{error}; save it in UTF-8, or name its encoding by --data.encoding") from None


def data_root(data: DataOptions, cache_dir: Path) -> Path:
    """Folder of the data; procedural birds are drawn below ``cache_dir`` if they aren't there yet."""
    if data.root is not None:
        return data.root
    bars: list[Progress] = []

    def follow(done: int, total: int) -> None:
        # The bar appears with the first drawing: none when all are there already.
        if not bars:
            bars.append(Progress("drawing birds", total))
        bars[0].advance(1)

    try:
        with processes.leader_first():
            return ensure_birds(cache_dir / "data", data.birds, follow)
    finally:
        for bar in bars:
            bar.close()


def load_test_split(
    data: DataOptions,
    sizes: Sequence[int],
    root: Path,
    vocabulary: Vocabulary,
    prepared: PreparedImages | None = None,
) -> tuple[TextImageDataset, AttributeTruth | None]:
    """The test images and the truth of procedural birds."""
    truth = load_attributes(root) if data.name == "birds" else None
    return _dataset(load_records(data, root, "test"), vocabulary, sizes, data.max_words, prepared), truth


def own_test_split(
    options: Options, cache_dir: Path, vocabulary: Vocabulary
) -> tuple[TextImageDataset, AttributeTruth | None]:
    """What `load_test_split` gives for a run's own data, drawn or prepared below ``cache_dir``."""
    root = data_root(options.data, cache_dir)
    prepared = find_prepared(cache_dir, root, options.sizes)
    return load_test_split(options.data, options.sizes, root, vocabulary, prepared)


def load_splits(
    data: DataOptions,
    sizes: Sequence[int],
    root: Path,
    vocabulary: Vocabulary | None = None,
    prepared: PreparedImages | None = None,
) -> Splits:
    """Read both splits of the data in ``root``.

    Args:
        sizes: sides of the pictures, ascending [pixels].
        vocabulary: by default the data's own, or built over train then test captions.
        prepared: what :func:`find_prepared` found.

    Raises:
        UserError: for missing or unusable data, or a single training image.
    """
    if data.name == "shards":
        train, vocabulary = _stream_shards(data, sizes, root, vocabulary)
    else:
        train, vocabulary = _read_records(data, sizes, root, vocabulary, prepared)
    if len(train) < 2:
        raise UserError(f"{root} has {len(train)} usable training image: two are needed for a mismatched caption")
    # Test pictures of shards are read where they lie.
    test, truth = load_test_split(data, sizes, root, vocabulary, prepared)
    return Splits(train, test, vocabulary, truth)


def _read_records(
    data: DataOptions, sizes: Sequence[int], root: Path, vocabulary: Vocabulary | None, prepared: PreparedImages | None
) -> tuple[TextImageDataset, Vocabulary]:
    """Training pictures that can be read at random, and their words, by default those of all captions."""
    records = load_records(data, root, "train")
    vocabulary = vocabulary or own_vocabulary(data, root)
    if vocabulary is None:
        everything = [*records, *load_records(data, root, "test")]
        vocabulary = prepared.vocabulary(everything) if prepared is not None else None
        vocabulary = vocabulary or Vocabulary.build(caption for record in everything for caption in record.captions)
    train = _dataset(records, vocabulary, sizes, data.max_words, prepared)
    return train, vocabulary


def _stream_shards(
    data: DataOptions, sizes: Sequence[int], root: Path, vocabulary: Vocabulary | None
) -> tuple[ShardedImages, Vocabulary]:
    """Training pictures of shards, and their words."""
    webdataset()
    index = ShardIndex.load(root)
    vocabulary = vocabulary or index.vocabulary
    settings = {"max_words": data.max_words, "lanes": data.lanes, "window": data.shuffle_window}
    return ShardedImages(index.splits["train"], vocabulary, sizes=sizes, **settings), vocabulary


def find_prepared(cache_dir: Path, root: Path, sizes: Sequence[int]) -> PreparedImages | None:
    """The images that ``python -m kvmgan.data prepare`` decoded for pictures of these sizes, if it did."""
    folder = prepared_folder(cache_dir, root, stored_side(sizes[-1]))
    return PreparedImages(folder) if folder.is_dir() else None


def own_vocabulary(data: DataOptions, root: Path) -> Vocabulary | None:
    """The words that the data in ``root`` brings along, in their order, if it does."""
    if data.name == "shards":
        return ShardIndex.load(root).vocabulary
    path = caption_file(root) if data.name == "attngan" else None
    return read_vocabulary(path) if path is not None else None


def fit_to_data(options: Options, splits: Splits) -> Options:
    """The options with batches no larger than the training split; what is lowered is printed.

    Raises:
        UserError: if another setting doesn't fit the smaller batch.
    """
    groups = ["training", "damsm"] + (["classifier"] if splits.truth is not None else [])
    for group in groups:
        settings = getattr(options, group)
        if settings.batch_size > len(splits.train):
            print(
                f"note: --{group}.batch-size {settings.batch_size} is lowered to the {len(splits.train)} training "
                "images that there are"
            )
            options = replace(options, **{group: replace(settings, batch_size=len(splits.train))})
    validate(options)
    return options


def _dataset(
    records: list[Record], vocabulary: Vocabulary, sizes: Sequence[int], max_words: int, prepared: PreparedImages | None
) -> TextImageDataset:
    dataset = TextImageDataset(records, vocabulary, sizes=sizes, max_words=max_words, prepared=prepared)
    for path, reason in dataset.skipped:
        print(f"warning: skipped {path}: {reason}")
    if dataset.decoded_on_demand:
        print(
            f"note: {dataset.decoded_on_demand} images don't fit into memory and are decoded whenever they are seen: "
            f"python -m kvmgan.data prepare FOLDER --size {sizes[-1]} keeps them decoded in the cache"
        )
    return dataset
