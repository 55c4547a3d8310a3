"""Makes a run the model that ships with the package: its files, how it came about, and a sheet of its pictures.

python tools/ship_model.py RUN COMMIT
python tools/ship_model.py --sheet

RUN's newest checkpoint must have been judged (`python -m kvmgan.evaluate RUN ...`), COMMIT is the one it was trained
by. Beside the pipeline's own files go config.yaml (`python -m kvmgan.train --config` does it again) and metrics.json
with the rows of that checkpoint. docs/gallery gets 64 captions of the test split, drawn at random, with their pictures,
and README its opening picture: the first sixteen of them. With --sheet alone the pictures are drawn anew, by the model
that ships and of the captions that are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kvmgan import Pipeline
from kvmgan.command_line import default_cache_dir, run_command
from kvmgan.figures.pictures import save_png
from kvmgan.figures.sample_grid import sample_grid
from kvmgan.files import file_digest, write_text
from kvmgan.pipeline.folder import WEIGHTS
from kvmgan.pipeline.shipped import shipped_folder
from kvmgan.runs.run_folder import RunFolder
from kvmgan.training.checkpoint import Checkpoint, load_checkpoint
from kvmgan.training.datasets import own_test_split

ROOT = Path(__file__).parents[1]
SHEET = ROOT / "docs" / "gallery" / "birds-sheet.png"
CAPTIONS = SHEET.with_suffix(".txt")
OPENING = ROOT / "docs" / "birds.png"
OPENING_SIZE = 16
SHEET_SIZE = 64
SHEET_SEED = 0
# Noises that a picture chooses from: docs/pipeline.md says what more of them give.
TRIES = 4


def ship(checkpoint: Checkpoint, run: Path, commit: str, name: str) -> Path:
    """Write the model's folder anew from a run's newest checkpoint; returns it."""
    folder, pipeline = shipped_folder(name), Pipeline.from_pretrained(checkpoint.folder)
    pipeline.settings = replace(pipeline.settings, tries=TRIES)
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    shutil.copy(checkpoint.folder / "config.yaml", folder / "config.yaml")
    lines = RunFolder(run).metrics.read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["step"] == checkpoint.step]
    story = {
        "commit": commit,
        "step": checkpoint.step,
        "weights_sha256": file_digest(folder / WEIGHTS),
        "metrics": rows,
    }
    write_text(folder / "metrics.json", json.dumps(story, indent=1) + "\n")
    return folder


def drawn_captions(checkpoint: Checkpoint, count: int) -> list[str]:
    """One caption each of ``count`` test pictures, all drawn at random."""
    dataset, _ = own_test_split(checkpoint.options, default_cache_dir(), checkpoint.vocabulary())
    rng = np.random.default_rng(SHEET_SEED)
    chosen = rng.choice(len(dataset), count, replace=False)
    return [str(rng.choice(dataset.records[number].captions)) for number in chosen]


def draw_sheet(name: str, captions: list[str]) -> None:
    """The captions' pictures, each with a noise of its own: that of the seed of its number."""
    pipeline = Pipeline.from_pretrained(name)
    pictures = [pipeline(caption, seed=seed)[0].picture for seed, caption in enumerate(captions)]
    save_png(sample_grid(pictures, captions, columns=8, side=128), SHEET)
    save_png(sample_grid(pictures[:OPENING_SIZE], captions[:OPENING_SIZE]), OPENING)
    write_text(CAPTIONS, "".join(f"{caption}\n" for caption in captions))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("commit", nargs="?")
    parser.add_argument("--sheet", action="store_true")
    parser.add_argument("--name", default="birds")
    arguments = parser.parse_args(argv)
    given = arguments.run, arguments.commit
    if any(given) != all(given) or arguments.sheet == any(given):
        parser.error("expected RUN and COMMIT, or --sheet alone")
    if arguments.sheet:
        captions = CAPTIONS.read_text().splitlines()
    else:
        checkpoint = load_checkpoint(arguments.run)
        print(ship(checkpoint, arguments.run, arguments.commit, arguments.name))
        captions = drawn_captions(checkpoint, SHEET_SIZE)
    draw_sheet(arguments.name, captions)
    print(SHEET)


if __name__ == "__main__":
    sys.exit(run_command(main))
