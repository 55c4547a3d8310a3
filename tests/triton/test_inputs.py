"""The Triton kernels on unusual inputs: strides, addresses, garbage, large scores, no slots, too many channels."""

import pytest
import torch
from kvmem_checks import poisoned_memory
from kvmem_problems import LAYOUTS, bits, make_problem

pytestmark = pytest.mark.usefixtures("interpreter")

# Batch, channels, (height, width), slots, word channels, memory channels.
SIZES = {"tuned": (2, 16, (4, 8), 6, 12, 32), "general": (2, 16, (4, 8), 40, 12, 32)}


@pytest.fixture(params=SIZES)
def sizes(request):
    return SIZES[request.param]


def gradients(problem, grad=None):
    """The output and all gradients."""
    problem = problem.leaves()
    out = problem.run("triton")
    grad = torch.ones_like(out) if grad is None else grad
    return [out, *torch.autograd.grad(out, list(problem.inputs.values()), grad)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_of_any_strides_and_addresses_give_the_same_result(layout):
    base = make_problem(*SIZES["tuned"], mask="partial")
    _, *others = base.inputs.values()
    image, grad = (LAYOUTS[layout](tensor) for tensor in (base.image, torch.randn_like(base.image)))
    found = gradients(base.with_inputs([image, *others]), grad)
    expected = gradients(base.with_inputs([image.contiguous(), *others]), grad.contiguous())
    for result, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(result, reference)


def test_weights_words_and_mask_may_be_strided():
    problem = make_problem(*SIZES["tuned"], mask="partial")

    def strided(tensor):
        return torch.stack((tensor, torch.ones_like(tensor)), -1)[..., 0]

    image, words, *weights = problem.inputs.values()
    spread = problem.with_inputs([image, strided(words), *(strided(weight) for weight in weights)])
    spread = type(problem)(image, spread.words, strided(problem.mask), spread.weights, problem.options)
    for result, reference in zip(gradients(spread), gradients(problem), strict=True):
        assert torch.equal(result, reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_large_scores_do_not_overflow(sizes, dtype):
    """Scores in the thousands give a one-hot attention, not NaN: the softmax subtracts its maximum."""
    problem = make_problem(*sizes, mask="one image masked", dtype=dtype)
    weights = {**problem.weights, "key_weight": problem.weights["key_weight"] * 1e3}
    problem = problem.with_inputs([problem.image, problem.words, *weights.values()]).leaves()
    out, attention = problem.run("triton", return_attention=True)
    found = torch.autograd.grad(out.sum() + attention.sum(), list(problem.inputs.values()))
    assert all(tensor.isfinite().all() for tensor in (out, attention, *found))
    tolerance = {"rtol": 0, "atol": 4 * torch.finfo(dtype).eps}
    torch.testing.assert_close(attention[1].float().sum(0), torch.ones(4, 8), **tolerance)
    assert not attention[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_stands_in_masked_slots_does_not_matter(sizes, dtype):
    """Not even NaN: the same bits as with zeros there, and a gradient of zero."""
    problem = make_problem(*sizes, mask="partial", dtype=dtype)
    image, words, *weights = problem.inputs.values()
    empty = ~problem.mask.unsqueeze(2)
    zeros, garbage = (
        gradients(problem.with_inputs([image, words.masked_fill(empty, fill), *weights])) for fill in (0.0, torch.nan)
    )
    for result, reference in zip(garbage, zeros, strict=True):
        assert torch.equal(result, reference)
    assert not garbage[2][empty.expand_as(words)].any()


def test_every_number_that_comes_back_or_is_read_was_written_before(sizes):
    """New memory holds NaN: it must reach no result. Twice the same bits."""
    problem = make_problem(*sizes, mask="partial")
    expected = bits(problem, "triton")
    with poisoned_memory():
        found = bits(problem, "triton")
    for result, reference in zip(found, expected, strict=True):
        assert torch.equal(result, reference)


def test_no_slots():
    """As where every word is masked: the response is gated by the image alone."""
    problem = make_problem(slots=0).leaves()
    out, attention = problem.run("triton", return_attention=True)
    expected, _ = problem.run("eager", return_attention=True)
    assert attention.shape == (2, 0, 5, 7)
    torch.testing.assert_close(out, expected)
    inputs = list(problem.inputs.values())
    found, reference = (torch.autograd.grad(result.square().sum(), inputs) for result in (out, expected))
    torch.testing.assert_close(found, reference)


def test_no_images():
    problem = make_problem(batch=0).leaves()
    out, attention = problem.run("triton", return_attention=True)
    assert out.shape == (0, 16, 5, 7)
    assert attention.shape == (0, 6, 5, 7)
    for gradient in torch.autograd.grad(out.sum(), list(problem.inputs.values())):
        assert not gradient.any()


LIMITS = {
    "float64": ({"dtype": torch.float64}, "float64"),
    "513 channels": ({"channels": 513}, "more than 512 image channels"),
    "129 slots": ({"slots": 129}, "more than 128 slots"),
}


@pytest.mark.parametrize("settings, limit", LIMITS.values(), ids=LIMITS.keys())
def test_calls_beyond_the_kernels_are_refused(settings, limit):
    """By the layer, which has other backends, and by the operator, which could be called by others."""
    problem = make_problem(memory_channels=8, size=(2, 2), **settings)
    with pytest.raises(RuntimeError, match=f"backend 'triton' can't run this call: its kernels don't take {limit}"):
        problem.run("triton")
    with pytest.raises(RuntimeError, match=f"the Triton kernels don't take {limit}"):
        torch.ops.kvmem_triton.kv_memory(*problem.operator_arguments())
