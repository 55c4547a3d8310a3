"""Which training pictures generated ones are nearest to: a model that memorises shows here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from kvmgan.data.batches import evaluation_batches
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.streams import Images, training_stream
from kvmgan.figures.captioned_rows import captioned_rows
from kvmgan.metrics.extractors.own import damsm
from kvmgan.runs.progress import Progress

NEAREST = 4
BATCH = 64


@torch.no_grad()
def nearest_figure(
    generated: Tensor, captions: Sequence[str], images: Images, image_encoder: nn.Module, device: torch.device
) -> Image.Image:
    """Draw generated pictures beside the training pictures that the image encoder finds most alike.

    Args:
        generated: (N, 3, s, s) uint8.
        captions: of each of them.
        images: the training pictures: all of them, seen at their centres, or of shards an epoch as training sees it
            (what doesn't fill its last batch is left out).
        image_encoder: frozen; alike is what has a small angle between the global features.
    """
    look = damsm(image_encoder).look
    seen = F.normalize(look(generated.to(device))["features"].float(), dim=1)
    count = min(NEAREST, len(images))
    likeness = torch.full((len(generated), count), -torch.inf)
    found = torch.zeros(len(generated), count, *generated.shape[1:], dtype=torch.uint8)
    looked_at = 0
    with Progress("nearest pictures", -(-len(images) // BATCH)) as progress:
        for pixels in _pictures(images):
            features = F.normalize(look(pixels.to(device))["features"].float(), dim=1)
            likeness, found = _nearer(likeness, found, (seen @ features.T).cpu(), pixels)
            progress.advance(len(pixels))
            looked_at += len(pixels)
    rows = [[_picture(own), *map(_picture, neighbours)] for own, neighbours in zip(generated.cpu(), found, strict=True)]
    captions = [
        f"{caption} (cosines {', '.join(f'{value:.2f}' for value in values)})"
        for caption, values in zip(captions, likeness.tolist(), strict=True)
    ]
    headings = ["generated", f"nearest of {looked_at}", "second", "third", "fourth"][: 1 + count]
    return captioned_rows(captions, rows, headings, side=128)


def _pictures(images: Images) -> Iterator[Tensor]:
    """The training pictures in batches (b, 3, s, s) uint8."""
    if isinstance(images, TextImageDataset):
        yield from (batch.pixels for batch in evaluation_batches(images, BATCH))
        return
    stream = training_stream(images, min(BATCH, len(images)), seed=0, purpose="nearest pictures")
    yield from (batch.pixels for batch in itertools.islice(stream.iterate(0), stream.steps_per_epoch))


def _nearer(likeness: Tensor, found: Tensor, others: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The best of the N x k pictures found so far and of b others, N x b alike: likeness (N, k) and pixels."""
    count = likeness.shape[1]
    best, places = torch.cat((likeness, others), dim=1).topk(count, dim=1)
    kept = torch.stack(
        [
            torch.stack([found[row, place] if place < count else pixels[place - count] for place in own])
            for row, own in enumerate(places.tolist())
        ]
    )
    return best, kept


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
