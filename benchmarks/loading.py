"""How many pictures a second one process loads: CUB-like JPEG files, decoded at every access, prepared, in memory,
or streamed from shards.

`python benchmarks/loading.py --json loading.json`; torch has one thread, as a worker process of training has.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from report import describe_machine, line_up

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import stored_side
from kvmgan.data.prepared import PreparedImages, prepare_images
from kvmgan.data.records import Record
from kvmgan.data.shards.images import ShardedImages
from kvmgan.data.shards.index import ShardIndex
from kvmgan.data.shards.writing import write_shards
from kvmgan.data.streams import Images, Stream, training_stream
from kvmgan.data.vocabulary import Vocabulary

SIZES = (64, 128, 256)
BATCH_SIZE = 10
CAPTION = "this bird has a red crown, white wings and a short pointed black beak"


def make_records(folder: Path, count: int) -> list[Record]:
    """Smooth noise of 500 x 375 pixels, as most of CUB is, with a box of its middle."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        path = folder / f"{number}.jpg"
        small.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
        records.append(Record(str(number), path, number, (CAPTION,) * 10, (100.0, 60.0, 280.0, 240.0)))
    return records


def make_streams(folder: Path, count: int) -> dict[str, Stream]:
    """A stream of batches for each way that images are kept."""
    records, vocabulary = make_records(folder, count), Vocabulary.build([CAPTION])
    prepare_images(folder / "prepared", records, stored_side(SIZES[-1]), lambda images: None)
    ways = {
        "decoded at every access": {"memory_limit": 1},
        "prepared": {"memory_limit": 1, "prepared": PreparedImages(folder / "prepared")},
        "in memory": {"memory_limit": 2**40},
    }
    shape = {"sizes": SIZES, "max_words": 18}
    images: dict[str, Images] = {
        name: TextImageDataset(records, vocabulary, **shape, **way) for name, way in ways.items()
    }
    write_shards(folder / "shards", {"train": records, "test": records[:1]}, vocabulary, 100, lambda: None)
    split = ShardIndex.load(folder / "shards").splits["train"]
    images["shards"] = ShardedImages(split, vocabulary, **shape, lanes=8, window=32)
    return {name: training_stream(way, BATCH_SIZE, seed=0, purpose="train") for name, way in images.items()}


def measure(count: int, rounds: int) -> dict[str, list[float]]:
    """Way -> pictures a second of each round; the ways take turns."""
    with tempfile.TemporaryDirectory() as folder:
        streams = make_streams(Path(folder), count)
        rates: dict[str, list[float]] = {name: [] for name in streams}
        for _ in range(rounds):
            for name, stream in streams.items():
                batches = stream.iterate(0)
                next(batches)
                begin = perf_counter()
                for _ in itertools.islice(batches, stream.steps_per_epoch - 1):
                    pass
                rates[name].append((stream.steps_per_epoch - 1) * BATCH_SIZE / (perf_counter() - begin))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="images (default: 400)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--json", type=Path, help="file to write the machine and the results to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rates = measure(arguments.images, arguments.rounds)
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    rows = [[name, f"{median(measured):.0f}"] for name, measured in rates.items()]
    print("\n".join(line_up([["images", "pictures a second"], *rows])))
    if arguments.json:
        record = {"machine": machine, "pictures_per_second": rates}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
