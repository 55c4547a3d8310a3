"""What lies between two noises and two captions."""

from __future__ import annotations

import pytest
import torch

from kvmgan.pipeline.interpolation import between_noises, joined_words, stretched_places


def test_noise_keeps_its_length_on_the_way():
    first, last = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    half = between_noises(first, last, 0.5)
    assert torch.allclose(half, torch.tensor([2**0.5, 2**0.5, 0.0]), atol=1e-6)
    for weight in (0.1, 0.25, 0.9):
        assert between_noises(first, last, weight).norm().item() == pytest.approx(2.0, rel=1e-5)
    assert torch.allclose(between_noises(first, last, 0.0), first) and torch.allclose(
        between_noises(first, last, 1.0), last, atol=1e-6
    )


def test_equal_and_vanishing_noises():
    noise = torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(between_noises(noise, noise, 0.3), noise)
    zeros = torch.zeros(5)
    assert torch.equal(between_noises(zeros, zeros, 0.3), zeros)


def test_words_are_stretched_in_order():
    assert stretched_places(3, 6) == [0, 0, 1, 1, 2, 2]
    assert stretched_places(2, 3) == [0, 0, 1]
    assert stretched_places(4, 4) == [0, 1, 2, 3]
    assert joined_words(["a", "red"], ["a", "blue"]) == ("a", "red>blue")
