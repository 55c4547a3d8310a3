"""What is done with data as it lies in a folder: looked at, kept decoded, written as shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from kvmgan.config import DataOptions
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.inspection import Finding, SplitCounts, inspect_records
from kvmgan.data.pixels import stored_side, to_scales
from kvmgan.data.prepared import PreparedImages, keep_vocabulary, prepare_images, prepared_folder
from kvmgan.data.readers.folder import check_folder
from kvmgan.data.records import Record
from kvmgan.data.shards.index import ShardIndex
from kvmgan.data.shards.writing import write_shards
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.figures.pictures import save_png, to_pictures
from kvmgan.figures.sample_grid import sample_grid
from kvmgan.files import check_writable, exclusive
from kvmgan.random_streams import numpy_stream
from kvmgan.runs.interruption import SignalGuard
from kvmgan.runs.progress import Progress
from kvmgan.training.datasets import load_records, own_vocabulary, with_layout

_SHOWN = 16


def found_layout(folder: Path, name: str | None, encoding: str | None) -> DataOptions:
    """The settings of the data in ``folder``, its layout found out where no ``name`` is given.

    Raises:
        UserError: for a folder that is none, or of no known layout.
    """
    check_folder(folder)
    return with_layout(DataOptions(name=name or "birds", root=folder, encoding=encoding))


def shard(data: DataOptions, into: Path, samples: int) -> None:
    """Write the data as tar shards of so many pictures each.

    Raises:
        UserError: if the data can't be read, or the folder ``into`` isn't empty or can't be written.
    """
    splits = {split: load_records(data, data.root, split) for split in ("train", "test")}
    total = sum(map(len, splits.values()))
    with SignalGuard("nothing is left of the shards"), Progress("sharding", total) as progress:
        skipped = write_shards(
            into,
            splits,
            own_vocabulary(data, data.root),
            samples,
            lambda: progress.advance(1),
        )
    for path, text in skipped:
        print(f"warning: left out {path}: {text}")
    index = ShardIndex.load(into)
    for name, split in index.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 2**30
        shards = f"{len(split.shards)} shard{'s' * (len(split.shards) > 1)}"
        print(f"{name + ':':7}{split.samples} images in {shards}, {size:.2f} GiB")
    print(f"written: {into}")


def prepare(data: DataOptions, size: int, cache_dir: Path) -> None:
    """Keep all images decoded for pictures of ``size`` pixels, below ``cache_dir``.

    Shards that are whole stay: a stopped command goes on where it was, and a changed image is decoded again.

    Raises:
        UserError: if the data can't be read or the folder can't be written.
    """
    side = stored_side(size)
    records = [record for split in ("train", "test") for record in load_records(data, data.root, split)]
    check_writable(cache_dir, "--cache-dir")
    folder = prepared_folder(cache_dir, data.root, side)
    guard = SignalGuard("what is decoded is kept; the same command goes on")
    with guard, exclusive(folder), Progress("decoding", len(records)) as progress:
        prepare_images(folder, records, side, lambda count: _advance(progress, count))
        keep_vocabulary(folder, records)
    prepared = PreparedImages(folder)
    broken = [(record.image_path, text) for record in records if (text := prepared.reason(record)) is not None]
    for path, text in broken:
        print(f"warning: {path}: {text}")
    gigabytes = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
    kept = f"{len(records) - len(broken)} images of {data.name} for pictures of {size} pixels"
    print(f"prepared: {kept} in {folder}, {gigabytes:.2f} GiB")


def _advance(progress: Progress, count: int) -> None:
    for _ in range(count):
        progress.advance(1)
    progress.report({})


def inspect(data: DataOptions, *, size: int, max_words: int, seed: int, sheet: Path) -> None:
    """Count what the data holds, draw some of it, and list what is missing, broken or doubtful.

    Args:
        size: side of the pictures that are to be trained on [pixels].
        max_words: words kept of a caption.
        seed: of what is drawn, into the file ``sheet``.

    Raises:
        UserError: if something is missing or broken.
    """
    splits, findings = _read(data, data.root)
    with Progress("looking at images", sum(map(len, splits.values()))) as progress:
        found, usable = inspect_records(splits, size, lambda: progress.advance(1))
    findings += found
    print(f"layout:     {data.name}")
    for split, records in splits.items():
        counts = SplitCounts.of(records)
        print(
            f"{split + ':':12}{counts.images} images of {counts.classes} classes, {counts.captions} captions of up to "
            f"{counts.longest} words"
        )
    if usable:
        captions = (caption for records in splits.values() for record in records for caption in record.captions)
        try:
            vocabulary = own_vocabulary(data, data.root) or Vocabulary.build(captions)
            print(f"vocabulary: {len(vocabulary) - 1} words")
            save_png(_sheet(usable, vocabulary, size, max_words, seed), sheet)
            print(f"sheet:      {sheet}")
        except UserError as problem:
            # What was found so far is said all the same.
            findings.append(Finding.of(problem))
    _print_findings(findings)


def _read(data: DataOptions, root: Path) -> tuple[dict[str, list[Record]], list[Finding]]:
    """The records of each split that can be read, and what is wrong with the lists and captions."""
    splits: dict[str, list[Record]] = {}
    problems: list[UserError] = []
    for split in ("train", "test"):
        try:
            splits[split] = load_records(data, root, split, problems)
        except UserError as problem:
            problems.append(problem)
    # A folder's images are read for both splits: what is wrong with one is said twice.
    unique = {str(problem): problem for problem in problems}
    return splits, [Finding.of(problem) for problem in unique.values()]


def _sheet(records: Sequence[Record], vocabulary: Vocabulary, size: int, max_words: int, seed: int) -> Image.Image:
    """Pictures as training sees them: a random crop and facing, a random caption, its words as the model knows them."""
    rng = numpy_stream(seed, "inspection")
    chosen = [records[place] for place in rng.permutation(len(records))[:_SHOWN].tolist()]
    dataset = TextImageDataset(chosen, vocabulary, sizes=(size,), max_words=max_words)
    samples = [dataset.sample(index, rng) for index in range(len(dataset))]
    images = to_scales(torch.stack([sample.pixels for sample in samples]), (size,))[0]
    texts = [" ".join(vocabulary.words[token] for token in sample.tokens[: sample.length]) for sample in samples]
    return sample_grid(to_pictures(images), texts)


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(f"{finding.kind + ':':12}{finding.text}")
    counts = Counter(finding.kind for finding in findings)
    if counts["missing"] or counts["broken"]:
        raise UserError(f"{counts['missing']} missing, {counts['broken']} broken, {counts['doubtful']} doubtful")
    print(f"nothing is missing or broken, {counts['doubtful']} doubtful")
