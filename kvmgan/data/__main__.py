"""Unpack data, look at it, keep it decoded or write it as shards: ``python -m kvmgan.data``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from kvmgan.bounds import Bound, Count, Seed, check_bounds
from kvmgan.command_line import default_cache_dir, parse_one_of, run_command
from kvmgan.config import DataOptions, check_encoding
from kvmgan.data.archives import unpack
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
from kvmgan.figures.pictures import save_png
from kvmgan.figures.sample_grid import sample_grid
from kvmgan.files import check_writable, exclusive
from kvmgan.random_streams import numpy_stream
from kvmgan.runs.interruption import SignalGuard
from kvmgan.runs.progress import Progress
from kvmgan.training.datasets import load_records, own_vocabulary, with_layout

PROG = "python -m kvmgan.data"
_SHOWN = 16


@dataclass(frozen=True)
class DataCommand:
    """What commands that look at pictures are told of the data."""

    folder: tyro.conf.Positional[Path]
    """Folder of the data, as --data.root names it; it is only read."""
    name: Literal["attngan", "cub", "coco", "folder", "shards"] | None = None
    """Its layout; None finds it out."""
    encoding: str | None = None
    """Encoding of caption files that have no byte order mark and aren't UTF-8."""
    size: Annotated[int, Bound(least=16)] = 64
    """Side of the pictures that are to be trained on [pixels]."""


@dataclass(frozen=True)
class PrepareCommand(DataCommand):
    """Decode, crop and resize all images once, into the cache folder; training finds them there."""

    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder for decoded images."""


@dataclass(frozen=True)
class InspectCommand(DataCommand):
    """Count what a folder holds, draw pictures as training sees them, and list what is missing, broken or doubtful."""

    max_words: Count = 18
    """Words kept of a caption in training [words]."""
    sheet: Path = Path("inspection.png")
    """File for the pictures."""
    seed: Seed = 0
    """Seed of which pictures are drawn, with which crop, facing and caption."""


@dataclass(frozen=True)
class ShardCommand:
    """Write data of any layout as tar shards, which training reads from end to end: for slow or shared disks."""

    folder: tyro.conf.Positional[Path]
    """Folder of the data, as --data.root names it; it is only read."""
    into: tyro.conf.Positional[Path]
    """Folder for the shards, new or empty."""
    name: Literal["attngan", "cub", "coco", "folder", "shards"] | None = None
    """Its layout; None finds it out."""
    encoding: str | None = None
    """Encoding of caption files that have no byte order mark and aren't UTF-8."""
    samples: Count = 1000
    """Pictures of a shard [images]."""


@dataclass(frozen=True)
class UnpackCommand:
    """Unpack archives of data; one whose paths leave the folder, or that holds links, is refused."""

    archives: tyro.conf.Positional[tuple[Path, ...]]
    """Tar files, of any compression, and zip files."""
    into: Path = Path("data")
    """Folder that they are unpacked into; nothing in it is overwritten."""


_COMMANDS = {"inspect": InspectCommand, "prepare": PrepareCommand, "shard": ShardCommand, "unpack": UnpackCommand}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, 2 where ``inspect`` finds something missing or broken."""
    return run_command(_dispatch, argv)


def _dispatch(argv: Sequence[str]) -> None:
    command = parse_one_of(_COMMANDS, argv, prog=PROG)
    if isinstance(command, PrepareCommand):
        _prepare(command)
    elif isinstance(command, ShardCommand):
        _shard(command)
    elif isinstance(command, UnpackCommand):
        _unpack(command)
    else:
        _inspect(command)


def _unpack(command: UnpackCommand) -> None:
    if not command.archives:
        raise UserError(f"no archive is named: {PROG} unpack ARCHIVE... --into FOLDER")
    with SignalGuard("archives that were finished stay"):
        for archive in command.archives:
            for path in unpack(archive, command.into):
                print(f"unpacked: {path}")


def _settings(command: DataCommand | ShardCommand) -> DataOptions:
    """The settings of the data, its layout found out.

    Raises:
        UserError: for a folder that is none, or of no known layout, and settings out of their bounds.
    """
    check_bounds(command)
    check_encoding(command.encoding, "--encoding")
    check_folder(command.folder)
    return with_layout(DataOptions(name=command.name or "birds", root=command.folder, encoding=command.encoding))


def _shard(command: ShardCommand) -> None:
    data = _settings(command)
    splits = {split: load_records(data, command.folder, split) for split in ("train", "test")}
    total = sum(map(len, splits.values()))
    with SignalGuard("nothing is left of the shards"), Progress("sharding", total) as progress:
        skipped = write_shards(
            command.into,
            splits,
            own_vocabulary(data, command.folder),
            command.samples,
            lambda: progress.advance(1),
        )
    for path, text in skipped:
        print(f"warning: left out {path}: {text}")
    index = ShardIndex.load(command.into)
    for name, split in index.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 2**30
        shards = f"{len(split.shards)} shard{'s' * (len(split.shards) > 1)}"
        print(f"{name + ':':7}{split.samples} images in {shards}, {size:.2f} GiB")
    print(f"written: {command.into}")


def _prepare(command: PrepareCommand) -> None:
    """Shards that are whole stay: a stopped command goes on where it was, and a changed image is decoded again."""
    data, side = _settings(command), stored_side(command.size)
    records = [record for split in ("train", "test") for record in load_records(data, command.folder, split)]
    check_writable(command.cache_dir, "--cache-dir")
    folder = prepared_folder(command.cache_dir, command.folder, side)
    guard = SignalGuard("what is decoded is kept; the same command goes on")
    with guard, exclusive(folder), Progress("decoding", len(records)) as progress:
        prepare_images(folder, records, side, lambda count: _advance(progress, count))
        keep_vocabulary(folder, records)
    prepared = PreparedImages(folder)
    broken = [(record.image_path, text) for record in records if (text := prepared.reason(record)) is not None]
    for path, text in broken:
        print(f"warning: {path}: {text}")
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
    kept = f"{len(records) - len(broken)} images of {data.name} for pictures of {command.size} pixels"
    print(f"prepared: {kept} in {folder}, {size:.2f} GiB")


def _advance(progress: Progress, count: int) -> None:
    for _ in range(count):
        progress.advance(1)
    progress.report({})


def _inspect(command: InspectCommand) -> None:
    data = _settings(command)
    splits, findings = _read(data, command.folder)
    with Progress("looking at images", sum(map(len, splits.values()))) as progress:
        found, usable = inspect_records(splits, command.size, lambda: progress.advance(1))
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
            vocabulary = own_vocabulary(data, command.folder) or Vocabulary.build(captions)
            print(f"vocabulary: {len(vocabulary) - 1} words")
            _draw_sheet(command, usable, vocabulary)
            print(f"sheet:      {command.sheet}")
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


def _draw_sheet(command: InspectCommand, records: Sequence[Record], vocabulary: Vocabulary) -> None:
    """Pictures as training sees them: a random crop and facing, a random caption, its words as the model knows them."""
    rng = numpy_stream(command.seed, "inspection")
    chosen = [records[place] for place in rng.permutation(len(records))[:_SHOWN].tolist()]
    dataset = TextImageDataset(chosen, vocabulary, sizes=(command.size,), max_words=command.max_words)
    samples = [dataset.sample(index, rng) for index in range(len(dataset))]
    images = to_scales(torch.stack([sample.pixels for sample in samples]), (command.size,))[0]
    texts = [" ".join(vocabulary.words[token] for token in sample.tokens[: sample.length]) for sample in samples]
    save_png(sample_grid(images, texts), command.sheet)


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(f"{finding.kind + ':':12}{finding.text}")
    counts = Counter(finding.kind for finding in findings)
    if counts["missing"] or counts["broken"]:
        raise UserError(f"{counts['missing']} missing, {counts['broken']} broken, {counts['doubtful']} doubtful")
    print(f"nothing is missing or broken, {counts['doubtful']} doubtful")


if __name__ == "__main__":
    sys.exit(main())
