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


# (H, W): rows of whole vectors; rows of none, so that no channel but the first is aligned; both are 12 MiB and more.
@pytest.mark.parametrize("size", [(160, 160), (161, 159)], ids=str)
def test_large_outputs_match_the_eager_form(isa, layers, size):
    """Every element is written, and right, with the gradient of the image beside it; twice the same bits."""
    fused, eager = layers
    image, words = torch.randn(4, 32, *size), torch.randn(4, 5, 16)
    assert image.nbytes >= 12 << 20
    grad = torch.randn_like(image)
    results = []
    for layer in (fused, fused, eager):
        leaf = image.clone().requires_grad_()
        out = layer(leaf, words)
        results.append((out.detach(), *torch.autograd.grad(out, leaf, grad)))
    for first, second, reference in zip(*results, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, reference, rtol=1e-4, atol=1e-5)
