"""CLIPScore by hand."""

import math

import pytest
import torch

from kvmgan.evaluation.scores.clip_score import ClipScore
from kvmgan.metrics.extractors.huggingface import TextImageWatcher
from kvmgan.metrics.seen import Watcher


def test_a_picture_against_its_caption_counts_as_nothing():
    """Each pair's cosine from zero up (Hessel et al., 2021, equation 1): 1, 0.5, and -1 that is 0."""
    angles = torch.tensor([0.0, math.pi / 3, math.pi])
    captions = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    clip = TextImageWatcher(Watcher("clip", "0", lambda pictures: {}), lambda texts: captions)
    seen = {"clip.embedding": torch.stack((angles.cos(), angles.sin()), dim=1)}
    (row,) = ClipScore(clip, ["a", "b", "c"], {}).rows({"some": seen}, seen)
    assert row["value"] == pytest.approx(100 * (1 + 0.5 + 0) / 3, rel=1e-6)
