"""The gated linear unit."""

import pytest
import torch
import torch.nn.functional as F

from kvmgan.models.glu import gated

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gated_is_glu_and_keeps_the_order_in_memory(memory_format, dtype):
    features = torch.randn(2, 6, 3, 5, dtype=dtype).contiguous(memory_format=memory_format)
    torch.testing.assert_close(gated(features), F.glu(features, dim=1))
    assert gated(features).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("arriving", [*FORMATS, "expanded"], ids=str)
def test_gradient_in_channels_last(arriving):
    """By finite differences, and against GLU's own, whichever order the gradient comes in."""
    torch.manual_seed(0)
    features = torch.randn(2, 6, 3, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    features.requires_grad_()
    assert torch.autograd.gradcheck(gated, features)
    gradient = torch.randn(2, 3, 3, 5, dtype=torch.float64)
    if arriving == "expanded":
        gradient = gradient[:, :, :1, :1].expand(2, 3, 3, 5)
    else:
        gradient = gradient.contiguous(memory_format=arriving)
    (found,) = torch.autograd.grad(gated(features), features, gradient)
    (right,) = torch.autograd.grad(F.glu(features, dim=1), features, gradient)
    torch.testing.assert_close(found, right)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_second_derivative_in_channels_last_is_refused_and_not_zero():
    features = torch.randn(1, 4, 2, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    (first,) = torch.autograd.grad(gated(features).square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
