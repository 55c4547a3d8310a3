"""How many of a model's birds have one head with one beak, by a classifier of halves of pictures.

python tools/count_heads.py MODEL [--tries N ...]

MODEL is what Pipeline.from_pretrained takes, of the procedural birds. The classifier is trained for minutes on
drawings, some of them without beak or head, to tell halves that show a head with its beak from others; a bird is whole
where exactly one of its halves does. First comes what it says of drawings that it hasn't seen, whole ones and others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kvmgan import Pipeline
from kvmgan.command_line import run_command
from kvmgan.data.procedural import anatomy, drawing
from kvmgan.data.procedural.attributes import ATTRIBUTES
from kvmgan.data.procedural.grammar import write_caption
from kvmgan.models.attribute_classifier import AttributeClassifier

SIDE, MARGIN = 64, 16
# Columns of a half: more than half of them, since a head reaches over the middle.
HALF = 38
LEFT_OUT = ("nothing", "nothing", "beak", "head")
DRAWINGS, STEPS, BATCH = 8_000, 1_200, 64
CAPTIONS, PICTURES = 200, 8
SEED = 5


class _FacingRight:
    """A stream of random numbers by which no bird is mirrored."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.uniform = rng.uniform

    def random(self) -> float:
        return 1.0


@contextmanager
def drawn_without(part: str) -> Iterator[None]:
    """In the context birds face right and lack the part."""
    pose, body = drawing._pose, anatomy._body

    def headless(*given: object) -> list[drawing.Shape]:
        # The rims of trunk, neck and skull, the shade, and the three again: of the trunk alone.
        rim, _, _, shade, trunk, _, _ = body(*given)
        return [rim, shade, trunk]

    lacking = {"nothing": (), "beak": ("_beak",), "head": ("_beak", "_crown", "_eye")}[part]
    with ExitStack() as patches:
        patches.enter_context(
            mock.patch.object(drawing, "_pose", lambda *given: pose(*given[:-1], _FacingRight(given[-1])))
        )
        for name in lacking:
            patches.enter_context(mock.patch.object(anatomy, name, lambda *given: []))
        if part == "head":
            patches.enter_context(mock.patch.object(anatomy, "_body", headless))
        yield


def draw_birds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Drawings (count, 3, 64, 64) uint8 of birds that face right, and whether each has a head with a beak (count,)."""
    rng = np.random.default_rng(seed)
    pictures = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for number in range(count):
        with drawn_without(LEFT_OUT[number % len(LEFT_OUT)]):
            drawn = np.asarray(drawing.draw_bird(_attributes(rng), SIDE + MARGIN, rng))
        top, left = rng.integers(0, MARGIN + 1, 2)
        pictures[number] = drawn[top : top + SIDE, left : left + SIDE]
    whole = torch.tensor([LEFT_OUT[number % len(LEFT_OUT)] == "nothing" for number in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2), whole


def _attributes(rng: np.random.Generator) -> dict[str, str]:
    return {name: values[rng.integers(len(values))] for name, values in ATTRIBUTES.items()}


def halves(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The right and the left half of pictures (N, 3, s, s), the left one mirrored: a head would face right in both."""
    return pictures[..., -HALF:], pictures.flip(3)[..., -HALF:]


def _worn(levels: Tensor) -> Tensor:
    """Levels to [-1, 1], blurred and with noise by a random part: what a generator draws is no drawing."""
    images = levels.float() / 127.5 - 1
    share, loudness = (torch.rand(len(images), 1, 1, 1) * most for most in (0.8, 0.08))
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(images, blurred, share) + loudness * torch.randn_like(images)


def train_judge() -> AttributeClassifier:
    """The classifier of halves."""
    torch.manual_seed(0)
    drawings, whole = draw_birds(DRAWINGS, seed=1)
    shown = torch.cat(halves(drawings))
    wanted = torch.cat((whole, torch.zeros_like(whole))).long()
    judge = AttributeClassifier({"head": 2}, width=16)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(shown), (BATCH,))
        loss = F.cross_entropy(judge(_worn(shown[rows]))["head"], wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


@torch.no_grad()
def count_heads(judge: AttributeClassifier, pictures: Tensor) -> Tensor:
    """Heads (N,), 0 to 2, of pictures (N, 3, 64, 64) uint8."""
    return sum(judge(half.float() / 127.5 - 1)["head"].argmax(dim=1) for half in halves(pictures))


def report(name: str, heads: Tensor) -> None:
    shares = [100 * (heads == count).float().mean().item() for count in range(3)]
    print(f"{name:<24}" + "".join(f"{share:10.2f} %" for share in shares), flush=True)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tries", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments = parser.parse_args(argv)
    pipeline = Pipeline.from_pretrained(arguments.model)
    judge = train_judge()
    drawings, whole = draw_birds(1_000, seed=2)
    print(f"{'heads':<24}" + "".join(f"{count:12}" for count in range(3)))
    report("drawings", count_heads(judge, drawings[whole]))
    report("without head or beak", count_heads(judge, drawings[~whole]))
    rng = np.random.default_rng(SEED)
    captions = [write_caption(_attributes(rng), rng)[0] for _ in range(CAPTIONS)]
    for tries in arguments.tries:
        drawn = [
            # A seed each: picture n of every caption has the same noises.
            np.asarray(one.picture)
            for seed, caption in enumerate(captions)
            for one in pipeline(caption, seed=seed, count=PICTURES, tries=tries, attention=False)
        ]
        report(f"tries: {tries}", count_heads(judge, torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)))


if __name__ == "__main__":
    sys.exit(run_command(main))
