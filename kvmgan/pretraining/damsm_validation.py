"""How well pretrained encoders match pictures and captions that they were not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import to_scales
from kvmgan.data.samples import Batch, collate
from kvmgan.losses.damsm import word_similarities
from kvmgan.models.text_encoder import TextEncoder, word_mask
from kvmgan.random_streams import numpy_stream

# Pictures that choose among each other's captions: one true caption and up to 99 others, as in R-precision.
GROUP = 100


@dataclass(frozen=True)
class DamsmScore:
    """R-precision of real pictures by words and by sentences [percent]."""

    word: float
    sentence: float

    @property
    def mean(self) -> float:
        """What the best encoders are chosen by."""
        return (self.word + self.sentence) / 2


def validation_batches(dataset: TextImageDataset, count: int, seed: int) -> list[Batch]:
    """At most ``count`` records in random order, each with a random caption, in groups of 100: the seed's choice."""
    rng = numpy_stream(seed, "damsm validation")
    samples = []
    for index in rng.permutation(len(dataset))[:count].tolist():
        usable = dataset.usable_captions(index)
        # Counted among the usable captions, as evaluation_sample does.
        samples.append(dataset.evaluation_sample(index, int(rng.integers(len(usable)))))
    return [collate(samples[start : start + GROUP]) for start in range(0, len(samples), GROUP)]


@torch.no_grad()
def score_damsm(
    text: TextEncoder, image: nn.Module, batches: list[Batch], size: int, *, gamma1: float, gamma2: float
) -> DamsmScore:
    """R-precision within each group: is a picture's own caption nearer to it than all captions of other classes there?

    By words: the similarity of :func:`kvmgan.losses.damsm.word_similarities`; by sentences: the cosine. Both networks
    are put into evaluation mode for it, and back. Pictures without a caption of another class aren't counted.

    Args:
        text: on the device of ``image``.
        image: sees pictures of ``size`` pixels.
        batches: what :func:`validation_batches` returned.
        size: side of the pictures [pixels].
        gamma1: sharpness of the attention over regions.
        gamma2: sharpness of the sum over words.
    """
    modes = text.training, image.training
    text.eval()
    image.eval()
    device = text.encoder.weight.device
    found = []
    for batch in batches:
        words, sentence = text(batch.tokens.to(device), batch.lengths)
        mask = word_mask(batch.lengths, batch.tokens.shape[1]).to(device)
        regions, features = image(to_scales(batch.pixels.to(device), (size,))[0])
        by_word = word_similarities(regions.float(), words.float(), mask, gamma1=gamma1, gamma2=gamma2)
        by_sentence = F.normalize(features, dim=1) @ F.normalize(sentence, dim=1).T
        classes = batch.class_ids.to(device)
        found.append(torch.stack([_found(by_word, classes), _found(by_sentence, classes)]).cpu())
    text.train(modes[0])
    image.train(modes[1])
    word, sentence = torch.cat(found, dim=1).nanmean(dim=1).nan_to_num(0.0).mul(100).tolist()
    return DamsmScore(word, sentence)


def _found(similarities: Tensor, class_ids: Tensor) -> Tensor:
    """For each picture, a row of (B, B): 1 if its own caption (column) beats other classes', else 0; NaN alone."""
    other = class_ids[:, None] != class_ids[None, :]
    rivals = similarities.masked_fill(~other, float("-inf")).amax(dim=1)
    return torch.where(other.any(dim=1), (similarities.diagonal() > rivals).float(), float("nan"))
