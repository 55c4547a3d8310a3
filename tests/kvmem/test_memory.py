"""What is kept for backward, what is copied, and the strides of what comes back."""

import pytest
import torch
from kvmem_problems import LAYOUTS, CalledOperators, SavedTensors
from torch.profiler import ProfilerActivity, profile

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("mask", ["none", "partial"])
def test_backward_keeps_nothing_of_the_size_of_the_attention(make_problem, extension, mask, attention):
    """Beyond the inputs the mean is kept, and the memory side: both parts of m, g, k, v and u."""
    batch, channels, slots = 2, 16, 24
    problem = make_problem(batch, channels, (32, 32), slots, mask=mask).leaves()
    memory_channels = len(problem.weights["write_word_weight"])
    known = [*problem.inputs.values(), *([] if problem.mask is None else [problem.mask])]
    with SavedTensors(known) as saved:
        problem.run("cpu", return_attention=attention)
    of_words, of_image = 1 + memory_channels + channels + channels + 1, memory_channels
    assert saved.bytes == 4 * batch * (channels + slots * of_words + of_image)


def allocations(function) -> int:
    """Bytes that the framework's CPU allocator hands out while the function runs, in all."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    return sum(
        event.nbytes()
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.nbytes() > 0
    )


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_neither_format_is_copied(make_problem, extension, memory_format, dtype):
    """Forward and backward run on the image as it is: no operator around them, no second image inside them."""
    problem = make_problem(2, 16, (96, 96), 4, dtype=dtype, channels_last=memory_format is torch.channels_last).leaves()
    grad_out = torch.randn_like(problem.image)
    image_bytes = problem.image.numel() * problem.image.element_size()

    outputs = []
    assert allocations(lambda: outputs.append(problem.run("cpu"))) < 1.5 * image_bytes
    assert outputs[0].is_contiguous(memory_format=memory_format)
    inputs = list(problem.inputs.values())
    with CalledOperators() as called:
        gradients = torch.autograd.grad(outputs[0], inputs, grad_out, retain_graph=True)
    assert gradients[0].is_contiguous(memory_format=memory_format)
    assert [name for name in called.names if name != "aten::detach"] == ["kvmem::kv_memory_backward"]
    assert allocations(lambda: torch.autograd.grad(outputs[0], inputs, grad_out)) < 1.5 * image_bytes


ALL_LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    **LAYOUTS,
}


@pytest.mark.parametrize("name", ALL_LAYOUTS)
@pytest.mark.parametrize("size", [(5, 7), (8, 8), (1, 1), (1, 6)], ids=str)
def test_any_strides_give_the_same_result(make_problem, backend, name, size):
    """image and the gradient of the output in every layout, against the contiguous ones."""
    base = make_problem(3, size=size, mask="partial")
    strided = base.with_inputs([ALL_LAYOUTS[name](base.image), *list(base.inputs.values())[1:]])
    plain = base.with_inputs([strided.image.contiguous(), *list(base.inputs.values())[1:]])
    grad_out = ALL_LAYOUTS[name](torch.randn(base.image.shape, generator=torch.Generator().manual_seed(1)))
    found, expected = [], []
    for problem, grad, results in ((strided, grad_out, found), (plain, grad_out.contiguous(), expected)):
        problem = problem.leaves()
        out = problem.run(backend)
        results += [out, *torch.autograd.grad(out, list(problem.inputs.values()), grad)]
    for result, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(result, reference)
    if name in FORMATS:
        assert found[0].is_contiguous(memory_format=FORMATS[name])
        assert found[0].stride() == strided.image.stride()


@pytest.mark.parametrize("grad", ["expanded", "channels_last"])
def test_gradients_of_any_strides_are_taken(make_problem, backend, grad):
    """A sum gives an expanded gradient; the next layer may give one in the other format."""
    problem = make_problem().leaves()
    out = problem.run(backend)
    grad_out = (
        torch.ones(()).expand_as(out) if grad == "expanded" else torch.ones_like(out, memory_format=torch.channels_last)
    )
    found = torch.autograd.grad(out, list(problem.inputs.values()), grad_out, retain_graph=True)
    expected = torch.autograd.grad(out, list(problem.inputs.values()), torch.ones_like(out))
    for result, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(result, reference)


def test_weights_words_and_mask_may_be_strided(make_problem, backend):
    problem = make_problem(mask="partial")

    def strided(tensor):
        return torch.stack((tensor, torch.full_like(tensor, 77)), -1)[..., 0]

    spread = problem.with_inputs([problem.image, *(strided(tensor) for tensor in list(problem.inputs.values())[1:])])
    torch.testing.assert_close(spread.run(backend), problem.run(backend))
    transposed = {name: weight.t().contiguous().t() for name, weight in problem.weights.items()}
    spread = problem.with_inputs([problem.image, problem.words, *transposed.values()])
    torch.testing.assert_close(spread.run(backend), problem.run(backend))
    image, words, mask = problem.image, problem.words, strided(problem.mask)
    assert not mask.is_contiguous()
    strided_mask = type(problem)(image, words, mask, problem.weights, problem.options)
    torch.testing.assert_close(strided_mask.run(backend), problem.run(backend))
