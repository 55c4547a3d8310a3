"""Images so large that the forward pass writes past the caches and works through the batch in groups."""

import pytest
import torch

import kvmem


@pytest.fixture
def layers() -> tuple[kvmem.KVMemoryLayer, kvmem.KVMemoryLayer]:
    """The same layer twice: fused and eager."""
    torch.manual_seed(0)
    fused, eager = (kvmem.KVMemoryLayer(32, 16, 24, backend=backend) for backend in ("cpu", "eager"))
    eager.load_state_dict(fused.state_dict())
    return fused, eager


# (H, W): rows of whole vectors; rows of none, so that no channel but the first is aligned; all are 12 MiB and more.
SIZES = {torch.float32: [(160, 160), (161, 159)], torch.bfloat16: [(320, 160), (321, 161)]}
TOLERANCES = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.bfloat16: {"rtol": 0.02, "atol": 0.02}}
CASES = [
    (dtype, memory_format, size)
    for dtype, sizes in SIZES.items()
    for memory_format in (torch.contiguous_format, torch.channels_last)
    for size in (sizes if memory_format == torch.contiguous_format else sizes[:1])
]


@pytest.mark.parametrize(("dtype", "memory_format", "size"), CASES, ids=str)
def test_large_outputs_match_the_eager_form(isa, layers, dtype, memory_format, size):
    """Every element is written, and right, with the gradient of the image beside it; twice the same bits."""
    fused, eager = layers
    image = torch.randn(4, 32, *size).to(dtype).contiguous(memory_format=memory_format)
    words = torch.randn(4, 5, 16)
    assert image.nbytes >= 12 << 20
    grad = torch.randn_like(image)
    results = []
    for layer in (fused, fused, eager):
        leaf = image.clone().requires_grad_()
        out = layer(leaf, words)
        results.append((out.detach(), *torch.autograd.grad(out, leaf, grad)))
    for first, second, reference in zip(*results, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, reference, **TOLERANCES[dtype])
