"""A model that needs no training, and the tiny run's."""

from __future__ import annotations

import pytest
import torch

from kvmgan.config import ModelOptions
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.models.text_encoder import TextEncoder
from kvmgan.pipeline.pipeline import Pipeline
from kvmgan.pipeline.settings import PipelineSettings
from kvmgan.training.builders import build_generator

WORDS = ["a", "red", "blue", "bird", "with", "wings", "and", "short", "beak"]


@pytest.fixture
def pipeline() -> Pipeline:
    """16 -> 32 pixels by random weights that make pictures of some contrast; at most eight words are read."""
    settings = PipelineSettings(
        ModelOptions(stages=2, base_size=16, width=4, noise_dim=5, condition_dim=3, residual_blocks=1), 8, 8, 8
    )
    vocabulary = Vocabulary(WORDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = build_generator(settings.model, settings.word_dim, seed=0)
        for parameter in generator.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        text = TextEncoder(len(vocabulary), embedding_dim=8, word_dim=8, dropout=0.0)
    return Pipeline(settings, vocabulary, generator.eval(), text.eval())
