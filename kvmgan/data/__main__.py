"""Look at data before anything is trained on it: ``python -m kvmgan.data inspect FOLDER``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from kvmgan.bounds import Bound, Count, Seed, check_bounds
from kvmgan.command_line import parse, run_command
from kvmgan.config import DataOptions, check_encoding
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.inspection import Finding, SplitCounts, inspect_records
from kvmgan.data.pixels import to_scales
from kvmgan.data.readers.folder import check_folder
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.figures.pictures import save_png
from kvmgan.figures.sample_grid import sample_grid
from kvmgan.random_streams import numpy_stream
from kvmgan.runs.progress import Progress
from kvmgan.training.datasets import load_records, own_vocabulary, with_layout

PROG = "python -m kvmgan.data"
_SHOWN = 16


@dataclass(frozen=True)
class InspectCommand:
    """Count what a folder holds, draw pictures as training sees them, and list what is missing, broken or doubtful."""

    folder: tyro.conf.Positional[Path]
    """Folder of the data, as --data.root names it; it is only read."""
    name: Literal["attngan", "cub", "coco", "folder"] | None = None
    """Its layout; None finds it out."""
    encoding: str | None = None
    """Encoding of caption files that have no byte order mark and aren't UTF-8."""
    size: Annotated[int, Bound(least=16)] = 64
    """Side of the pictures that are to be trained on [pixels]."""
    max_words: Count = 18
    """Words kept of a caption in training [words]."""
    sheet: Path = Path("inspection.png")
    """File for the pictures."""
    seed: Seed = 0
    """Seed of which pictures are drawn, with which crop, facing and caption."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, 2 where something is missing or broken."""
    return run_command(_dispatch, argv)


def _dispatch(argv: Sequence[str]) -> None:
    if not argv or argv[0] != "inspect":
        raise UserError(f"{PROG} takes the command inspect, got {argv[0] if argv else 'none'}: {PROG} inspect FOLDER")
    command = parse(InspectCommand, argv[1:], prog=f"{PROG} inspect")
    check_bounds(command)
    check_encoding(command.encoding, "--encoding")
    check_folder(command.folder)
    _inspect(command)


def _inspect(command: InspectCommand) -> None:
    data = with_layout(DataOptions(name=command.name or "birds", root=command.folder, encoding=command.encoding))
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
        vocabulary = own_vocabulary(data, command.folder) or Vocabulary.build(captions)
        print(f"vocabulary: {len(vocabulary) - 1} words")
        _draw_sheet(command, usable, vocabulary)
        print(f"sheet:      {command.sheet}")
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
