"""Spectral normalisation, against torch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from kvmgan.models.spectral_norm import spectral_norm

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def make_pair(memory_format="contiguous"):
    """A convolution under torch's norm and under ours, with the same numbers."""
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, dtype=torch.float64)
    theirs, ours = torch_spectral_norm(copy.deepcopy(conv)), spectral_norm(conv)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours.to(memory_format=FORMATS[memory_format])


def test_states_have_the_same_keys_and_shapes():
    theirs, ours = make_pair()
    shapes = [{name: tensor.shape for name, tensor in conv.state_dict().items()} for conv in (theirs, ours)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("memory_format", FORMATS)
def test_numbers_and_gradients_are_those_of_torch_from_read_to_read(memory_format):
    """Weight, vectors and gradient over three steps that move the weight, then in evaluation mode."""
    theirs, ours = make_pair(memory_format)
    images = torch.randn(2, 5, 6, 6, dtype=torch.float64).contiguous(memory_format=FORMATS[memory_format])
    for step in range(4):
        for conv in (theirs, ours):
            conv.train(step < 3)
            conv.zero_grad()
            conv(images).tanh().square().sum().backward()
        torch.testing.assert_close(ours.weight, theirs.weight)
        for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")
            with torch.no_grad():
                mine -= 0.1 * mine.grad
                other -= 0.1 * other.grad
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("arriving", [*FORMATS, "expanded"])
def test_gradient_whichever_order_it_comes_in(memory_format, arriving):
    theirs, ours = make_pair(memory_format)
    gradient = torch.randn(7, 5, 3, 3, dtype=torch.float64)
    if arriving == "expanded":
        gradient = gradient[:, :, :1, :1].expand(7, 5, 3, 3)
    else:
        gradient = gradient.contiguous(memory_format=FORMATS[arriving])
    before = gradient.clone()
    for conv in (theirs, ours):
        conv.eval().weight.backward(gradient)
    kept = ours.parametrizations.weight.original
    torch.testing.assert_close(kept.grad, theirs.parametrizations.weight.original.grad)
    assert kept.grad.is_contiguous(memory_format=FORMATS[memory_format])
    assert torch.equal(gradient, before)


def test_gradient_by_finite_differences():
    """With the vectors held, as backward holds them."""
    norm = make_pair()[1].eval().parametrizations.weight[0]
    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, weight)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.grad(norm(weight).square().sum(), weight, create_graph=True)[0].sum().backward()


def test_autocast_leaves_the_norm_in_the_weight_s_type(monkeypatch):
    """Where mv runs in 16 bits, as under autocast on GPUs: each that is called sees autocast off."""
    conv, plain = (spectral_norm(nn.Conv2d(5, 7, 3)) for _ in range(2))
    plain.load_state_dict(conv.state_dict())
    expected, seen, mv = plain.weight, [], torch.mv
    monkeypatch.setattr(torch, "mv", lambda *xs: seen.append(torch.is_autocast_enabled("cpu")) or mv(*xs))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv.weight, expected)
    assert seen == [False] * 3


def test_two_reads_before_one_backward():
    """The second read moves the vectors on; the first one's gradient is by those that it had."""
    theirs, ours = make_pair()
    for conv in (theirs, ours):
        first, second = conv.weight, conv.weight
        (first.square().sum() + second.tanh().sum()).backward()
    torch.testing.assert_close(ours.parametrizations.weight.original.grad, theirs.parametrizations.weight.original.grad)


def test_estimate_of_a_new_norm_is_near_the_greatest_singular_value():
    torch.manual_seed(0)
    conv = spectral_norm(nn.Conv2d(8, 16, 3)).eval()
    assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_compiled_gradient_is_the_eager_one(fresh_compiler, memory_format):
    """A compiler that writes into copies instead of views loses what backward writes through one."""
    _, eager = make_pair(memory_format)
    compiled = copy.deepcopy(eager)
    compiled.compile(backend="aot_eager")
    images = torch.randn(2, 5, 6, 6, dtype=torch.float64).contiguous(memory_format=FORMATS[memory_format])
    for conv in (eager, compiled):
        conv(images).square().sum().backward()
    kept = [conv.parametrizations.weight.original.grad for conv in (eager, compiled)]
    torch.testing.assert_close(*kept)
