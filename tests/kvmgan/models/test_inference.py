"""The generator that draws: the pictures of the one that was trained, with fewer operations."""

import copy

import pytest
import torch
from torch import nn

from kvmgan.models.generator import Generator
from kvmgan.models.inference import for_inference


def trained(**options) -> Generator:
    """A generator whose normalisations have statistics and weights unlike those they begin with."""
    torch.manual_seed(0)
    generator = Generator(base_size=16, width=8, noise_dim=5, condition_dim=3, sentence_dim=6, word_dim=6, **options)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return generator


def draw(generator: Generator, batch: int = 3):
    torch.manual_seed(1)
    dtype = generator.conditioning.fc.weight.dtype
    noise, sentence, words = (torch.randn(batch, *size).to(dtype) for size in ((5,), (6,), (4, 6)))
    mask = torch.tensor([[True, True, False, False], [True] * 4, [True, False, False, False]])[:batch]
    condition = torch.randn(batch, 3).to(dtype)
    with torch.no_grad():
        return generator(noise, sentence, words, mask, condition_noise=condition, return_attention=True)


@pytest.mark.parametrize("residual_blocks", [0, 1, 2])
@pytest.mark.parametrize("refinement", ["memory", "attention", "none"])
def test_it_draws_what_the_generator_draws(refinement, residual_blocks):
    generator = trained(refinement=refinement, residual_blocks=residual_blocks).double().eval()
    expected, found = draw(generator), draw(for_inference(generator))
    for mine, theirs in zip([*found.images, *found.attention], [*expected.images, *expected.attention], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_it_has_no_normalisation_and_the_generator_stays_as_it_was():
    generator = trained().train()
    before = copy.deepcopy(generator.state_dict())
    made = for_inference(generator)
    assert not [module for module in made.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert not made.training and not any(weight.requires_grad for weight in made.parameters())
    assert generator.training and all(weight.requires_grad for weight in generator.parameters())
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_in_bfloat16_levels_differ_by_less_than_one_on_average():
    generator = trained().eval()
    expected = draw(generator).images[-1]
    found = draw(for_inference(copy.deepcopy(generator).to(torch.bfloat16))).images[-1]
    assert found.dtype == torch.bfloat16
    assert 0 < 127.5 * (found.float() - expected).abs().mean() < 1


def test_weights_of_16_bits_are_folded_in_float32():
    """And rounded once. So they draw as near the exact pictures as weights that aren't folded."""
    generator = trained().eval().to(torch.bfloat16)
    made = for_inference(generator)
    for name, exact in for_inference(copy.deepcopy(generator).float()).state_dict().items():
        assert torch.equal(made.state_dict()[name], exact.to(torch.bfloat16)), name
    exact = draw(copy.deepcopy(generator).double()).images[-1]
    errors = [(draw(one).images[-1].double() - exact).square().mean() for one in (made, generator)]
    assert errors[0] < 2 * errors[1]
