"""What is kept and copied on the GPU, the peak of memory, and tensors of more than 2^31 numbers."""

import pytest
import torch
from kvmem_problems import LAYOUTS, NAMESPACES, CalledOperators, SavedTensors

import kvmem

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("attention", [False, True])
def test_backward_keeps_nothing_of_the_size_of_the_attention(make_problem, backend, attention):
    """Beyond the inputs: the mean, and the memory side's B T M numbers."""
    batch, channels, slots, memory_channels = 2, 16, 24, 32
    problem = make_problem(batch, channels, (32, 32), slots, memory_channels=memory_channels, mask="partial").leaves()
    with SavedTensors([*problem.inputs.values(), problem.mask]) as saved:
        problem.run(backend, return_attention=attention)
    memory = (memory_channels + 1 + 2 * channels + 1) * slots + memory_channels + 1
    assert saved.bytes == 4 * batch * (channels + memory)


def peak(function) -> int:
    """Bytes of the GPU's memory at the highest, beyond what is in use before the call."""
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels, slots", [(64, 18), (32, 40), (80, 70)], ids=["cluster", "general", "large"])
def test_neither_format_is_copied(make_problem, kernels, channels, slots, dtype, memory_format):
    """Forward and backward run on the image as it is: no operator around them, no second image inside them."""
    channels_last = memory_format is torch.channels_last
    problem = make_problem(4, channels, (96, 96), slots, dtype=dtype, channels_last=channels_last).leaves()
    out = problem.run(kernels)
    grad = torch.randn_like(out)
    inputs = list(problem.inputs.values())
    with CalledOperators() as called:
        gradients = torch.autograd.grad(out, inputs, grad, retain_graph=True)
    assert [name for name in called.names if name != "aten::detach"] == [f"{NAMESPACES[kernels]}::kv_memory_backward"]
    assert out.is_contiguous(memory_format=memory_format)
    assert gradients[0].is_contiguous(memory_format=memory_format)
    del gradients
    # A copy would add an image to the one that comes back; scratch memory is small beside it, but for the Triton
    # kernels' ds and alpha of more channels than one block holds.
    image = problem.image.numel() * problem.image.element_size()
    scratch = 2 * 128 / channels if kernels == "triton" and channels > 64 else 0
    with torch.no_grad():
        assert peak(lambda: problem.run(kernels)) < 1.9 * image
    assert peak(lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True)) < (1.9 + scratch) * image


def test_the_peak_of_training_is_at_most_35_percent_of_the_eager_one(backend):
    """Forward and backward at B=32, N=128^2, bfloat16, counted beyond the inputs."""
    peaks = {}
    for form in (backend, "eager"):
        layer = kvmem.KVMemoryLayer(64, 256, backend=form, device="cuda", dtype=torch.bfloat16)
        image = torch.randn(32, 64, 128, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        words = torch.randn(32, 18, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        grad = torch.randn_like(image)
        inputs = [image, words, *layer.parameters()]
        peaks[form] = peak(
            lambda layer=layer, x=image, w=words, i=inputs, g=grad: torch.autograd.grad(layer(x, w), i, g)
        )
    assert peaks[backend] <= 0.35 * peaks["eager"], peaks


ALL_LAYOUTS = {**LAYOUTS, "rows not aligned to 16 bytes": lambda x: x}


@pytest.mark.parametrize("name", ALL_LAYOUTS)
@pytest.mark.parametrize("channels", [16, 64, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_strides_and_alignment_give_the_same_result(make_problem, kernels, dtype, channels, name):
    """image, words, weights and the gradient of the output in other layouts, against the dense ones."""
    size = (5, 7) if name.startswith("rows") else (8, 8)
    base = make_problem(3, channels, size, mask="partial", dtype=dtype)
    strided = base.with_inputs(
        [ALL_LAYOUTS[name](base.image), *(misaligned(tensor) for tensor in list(base.inputs.values())[1:])]
    )
    plain = base.with_inputs([strided.image.contiguous(), *list(base.inputs.values())[1:]])
    grad = torch.randn_like(plain.image)
    found, expected = [], []
    for problem, grad_out, results in (
        (strided, ALL_LAYOUTS[name](grad), found),
        (plain, ALL_LAYOUTS[name](grad), expected),
    ):
        problem = problem.leaves()
        out = problem.run(kernels)
        results += [out, *torch.autograd.grad(out, list(problem.inputs.values()), grad_out)]
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for result, reference in zip(found, expected, strict=True):
        assert (result - reference).norm() <= tolerance * reference.norm() + 1e-6


def misaligned(tensor):
    """The same numbers, one number past an aligned address."""
    return torch.cat((tensor.new_zeros(1), tensor.flatten()))[1:].view_as(tensor)


# sizes, and the free memory that they and the eager form take, in GiB
LARGE = {
    "one image": ((1, 64, (5800, 5800), 18), 70),
    "many images": ((140, 64, (512, 512), 18), 40),
    "general": ((140, 62, (512, 512), 18), 40),
    "large": ((125, 70, (512, 512), 18), 40),
}


@pytest.mark.parametrize("sizes, needed", LARGE.values(), ids=LARGE.keys())
def test_more_than_two_to_the_31_numbers(backend, sizes, needed):
    """The last image alone gives what it gives in its place, with its gradient; in bfloat16, 4.3 GB a tensor."""
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < needed:
        pytest.skip(f"{needed} GiB of free GPU memory are needed, {free:.0f} are there")
    batch, channels, size, slots = sizes
    assert batch * channels * size[0] * size[1] > 2**31
    torch.manual_seed(0)
    layer, eager = (
        kvmem.KVMemoryLayer(channels, 64, backend=form, device="cuda", dtype=torch.bfloat16)
        for form in (backend, "eager")
    )
    eager.load_state_dict(layer.state_dict())
    image = torch.randn(batch, channels, *size, device="cuda", dtype=torch.bfloat16)
    words = torch.randn(batch, slots, 64, device="cuda", dtype=torch.bfloat16)
    image.requires_grad_()
    out = layer(image, words)
    (gradient,) = torch.autograd.grad(out, image, out.detach())
    last = image[-1:].detach().requires_grad_()
    expected = eager(last, words[-1:])
    assert (out[-1:] - expected).norm() <= 0.02 * expected.norm()
    (expected_gradient,) = torch.autograd.grad(expected, last, expected.detach())
    assert (gradient[-1:] - expected_gradient).norm() <= 0.02 * expected_gradient.norm()
    # Every position, the last ones too: norms hide a few.
    tail = slice(-1000, None)
    difference = (out[-1].flatten(1)[:, tail] - expected[-1].flatten(1)[:, tail]).abs().max()
    assert difference <= 0.1 * expected.abs().max()
