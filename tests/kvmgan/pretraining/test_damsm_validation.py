"""The validation of pretrained encoders, against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kvmgan.data.samples import Batch
from kvmgan.losses.damsm import word_similarities
from kvmgan.pretraining.damsm_validation import score_damsm

GAMMAS = {"gamma1": 4.0, "gamma2": 5.0}


class _Text(nn.Module):
    """Words and sentence straight from the tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Embedding(50, 6)

    def forward(self, tokens, lengths):
        words = self.encoder(tokens)
        return words, words.mean(dim=1)


class _Image(nn.Module):
    """Regions and global feature from the first pixels."""

    def forward(self, images):
        flat = images.flatten(1)
        regions = torch.stack([flat[:, 7 * k : 7 * k + 6] for k in range(4)], dim=2)
        return regions.unflatten(2, (2, 2)), flat[:, 60:66]


def _batch(count: int, classes: int) -> Batch:
    torch.manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    lengths = torch.randint(1, 6, (count,))
    tokens = torch.randint(1, 50, (count, 5)) * (torch.arange(5) < lengths[:, None])
    numbers = torch.arange(count)
    return Batch(pixels, tokens, lengths, numbers % classes, numbers, numbers * 0)


def test_score_is_that_of_a_plain_loop():
    """A picture scores if its own caption beats all captions of other classes in its group."""
    batches = [_batch(30, 7), _batch(11, 3)]
    text, image = _Text(), _Image()
    score = score_damsm(text, image, batches, 32, **GAMMAS)
    hits = {"word": [], "sentence": []}
    for batch in batches:
        regions, features = image(batch.pixels.float() / 127.5 - 1)
        words, sentence = text(batch.tokens, batch.lengths)
        mask = torch.arange(5) < batch.lengths[:, None]
        by_word = word_similarities(regions, words, mask, **GAMMAS)
        for i in range(len(batch.lengths)):
            rivals = [j for j in range(len(batch.lengths)) if batch.class_ids[j] != batch.class_ids[i]]
            cosine = [F.cosine_similarity(features[i], sentence[j], dim=0).item() for j in range(len(batch.lengths))]
            hits["sentence"].append(all(cosine[i] > cosine[j] for j in rivals))
            hits["word"].append(all(by_word[i, i] > by_word[i, j] for j in rivals))
    assert score.word == pytest.approx(100 * sum(hits["word"]) / 41)
    assert score.sentence == pytest.approx(100 * sum(hits["sentence"]) / 41)
    assert score.mean == pytest.approx((score.word + score.sentence) / 2)
    assert 0 < score.mean < 60


def test_a_single_class_scores_nothing():
    """No caption is a wrong one: no NaN comes out, and equal scores keep the later encoders."""
    score = score_damsm(_Text(), _Image(), [_batch(4, 1)], 32, **GAMMAS)
    assert (score.word, score.sentence) == (0.0, 0.0) and not math.isnan(score.mean)


def test_the_modes_come_back():
    """Validation runs in evaluation mode and leaves training mode as it was."""
    text, image = _Text(), _Image()
    image.eval()
    seen = []
    text.register_forward_hook(lambda module, *_: seen.append(module.training))
    score_damsm(text, image, [_batch(4, 2)], 32, **GAMMAS)
    assert seen == [False] and text.training and not image.training
