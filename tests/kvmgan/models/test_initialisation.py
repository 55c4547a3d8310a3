"""How weights start."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from kvmgan.models.initialisation import initialise_weights


def singular_values(weight: torch.Tensor) -> torch.Tensor:
    """Those of a weight (out, in, ...) as a matrix with a row an output channel."""
    return torch.linalg.svdvals(weight.flatten(1))


def test_weights_start_orthogonal_and_norms_near_one():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Linear(6, 5))
    bias = model[0].bias.clone()
    model.apply(initialise_weights)
    torch.testing.assert_close(singular_values(model[0].weight), torch.ones(8))
    torch.testing.assert_close(singular_values(model[2].weight), torch.ones(5))
    assert torch.equal(model[0].bias, bias)
    assert not model[2].bias.any()
    assert not model[1].bias.any()
    assert 0 < (model[1].weight - 1).abs().max() < 0.1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("outputs", [5, 40], ids=["fewer rows than columns", "more rows than columns"])
def test_spectral_normalised_weights_start_orthogonal_with_vectors_of_their_own(outputs, training):
    """The vectors belong to the new weight at once: in evaluation mode nothing would bring them there."""
    conv = spectral_norm(nn.Conv2d(2, outputs, 3)).train(training)
    initialise_weights(conv)
    norm = conv.parametrizations.weight
    assert norm.training is norm[0].training is training
    conv.eval()
    ones = torch.ones(min(outputs, 18))
    torch.testing.assert_close(singular_values(norm.original), ones)
    torch.testing.assert_close(singular_values(conv.weight), ones)
    torch.testing.assert_close(norm.original.flatten(1) @ norm[0]._v, norm[0]._u)


class Doubled(nn.Module):
    """A tensor that is twice the one that is kept."""

    def forward(self, kept):
        return 2 * kept

    def right_inverse(self, tensor):
        return tensor / 2


def test_any_parametrised_tensor_is_set():
    """Weight norm keeps a length and a direction, not the weight."""
    layer = weight_norm(nn.Linear(6, 5))
    parametrize.register_parametrization(layer, "bias", Doubled())
    norm = nn.BatchNorm2d(3)
    parametrize.register_parametrization(norm, "weight", Doubled())
    nn.Sequential(layer, norm).apply(initialise_weights)
    torch.testing.assert_close(singular_values(layer.weight), torch.ones(5))
    assert not layer.bias.any()
    assert 0 < (norm.weight - 1).abs().max() < 0.1


def test_a_parametrised_weight_stays_the_parameter_that_an_optimiser_holds():
    conv = spectral_norm(nn.Conv2d(2, 5, 3))
    before = conv.parametrizations.weight.original
    initialise_weights(conv)
    assert conv.parametrizations.weight.original is before
    assert before.requires_grad
    assert conv(torch.randn(1, 2, 3, 3)).requires_grad
