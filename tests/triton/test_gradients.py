"""Which gradients the Triton kernels compute, and what they keep for them."""

import pytest
import torch
from kvmem_checks import assert_only_needed_gradients
from kvmem_problems import CalledOperators, SavedTensors, make_problem

pytestmark = pytest.mark.usefixtures("interpreter")

# Batch, channels, (height, width), slots, word channels, memory channels.
SIZES = {"tuned": (1, 16, (3, 4), 5, 8, 8), "general": (1, 16, (3, 4), 40, 8, 8)}


@pytest.fixture(params=SIZES)
def sizes(request):
    return SIZES[request.param]


@pytest.mark.parametrize("detach_mean", [False, True])
def test_a_gradient_that_is_not_needed_comes_back_empty_and_the_others_do_not_change(sizes, detach_mean):
    problem = make_problem(*sizes, mask="partial", detach_mean=detach_mean)
    assert_only_needed_gradients(problem, not detach_mean, "kvmem_triton")


def test_only_what_the_image_needs_is_launched_where_nothing_else_is_needed(launches):
    """The gradient of the image alone, without the mean's part: one pass over the positions."""
    for sizes, name in zip(SIZES.values(), ("kv_memory_read_backward", "kv_memory_blocks_backward"), strict=True):
        problem = make_problem(*sizes, detach_mean=True)
        problem.image.requires_grad_()
        out = problem.run("triton").sum()
        launches.clear()
        torch.autograd.grad(out, problem.image)
        assert [launch.name for launch in launches if launch.programs] == [name]


@pytest.mark.parametrize("used", ["out", "attention"])
def test_either_output_alone_has_the_gradients_of_the_specification(sizes, used):
    found = {}
    for backend in ("eager", "triton"):
        problem = make_problem(*sizes, mask="partial").leaves()
        out, attention = problem.run(backend, return_attention=True)
        loss = (out if used == "out" else attention).square().sum()
        inputs = list(problem.inputs.values())
        found[backend] = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found["triton"], found["eager"], rtol=1e-3, atol=1e-5)


def test_second_derivatives_are_those_of_the_eager_form():
    found = {}
    for backend in ("eager", "triton"):
        problem = make_problem(*SIZES["tuned"], mask="partial").leaves()
        inputs = list(problem.inputs.values())
        first = torch.autograd.grad(problem.run(backend).square().sum(), inputs, create_graph=True)
        found[backend] = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)
    for expected, result in zip(found["eager"], found["triton"], strict=True):
        assert (result - expected).norm() <= 1e-3 * expected.norm() + 1e-6


def test_detach_mean_stops_the_gradient_through_the_mean_alone(sizes):
    attached = make_problem(*sizes, mask="partial").leaves()
    detached = make_problem(*sizes, mask="partial", detach_mean=True).leaves()
    outputs = [problem.run("triton") for problem in (attached, detached)]
    assert torch.equal(*outputs)
    grads = [
        torch.autograd.grad(out, problem.image, torch.ones_like(out))[0]
        for out, problem in zip(outputs, (attached, detached), strict=True)
    ]
    # The mean spreads evenly over the positions: so the difference is the same at all of them, and not zero.
    difference = (grads[0] - grads[1]).flatten(2)
    torch.testing.assert_close(difference, difference[..., :1].expand_as(difference), rtol=1e-3, atol=1e-5)
    assert difference.abs().max() > 1e-4


@pytest.mark.parametrize("attention", [False, True])
def test_backward_keeps_nothing_of_the_size_of_the_attention(sizes, attention):
    """Beyond the inputs: the mean, and the memory side's B T M numbers."""
    batch, channels, _, slots, _, memory_channels = sizes
    problem = make_problem(*sizes, mask="partial").leaves()
    with SavedTensors([*problem.inputs.values(), problem.mask]) as saved:
        problem.run("triton", return_attention=attention)
    memory = (memory_channels + 1 + 2 * channels + 1) * slots + memory_channels + 1
    assert saved.bytes == 4 * batch * (channels + memory)


def test_neither_format_is_copied():
    """No operator around the fused one, and gradients in the format of what they belong to."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        problem = make_problem(*SIZES["tuned"], channels_last=memory_format is torch.channels_last).leaves()
        out = problem.run("triton")
        grad = torch.randn_like(out)
        with CalledOperators() as called:
            gradients = torch.autograd.grad(out, list(problem.inputs.values()), grad)
        assert [name for name in called.names if name != "aten::detach"] == ["kvmem_triton::kv_memory_backward"]
        assert out.is_contiguous(memory_format=memory_format)
        assert gradients[0].is_contiguous(memory_format=memory_format)
