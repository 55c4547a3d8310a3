"""Images of one or three spatial dimensions, or channels last: the image layout's results bit for bit, no copies."""

import pytest
import torch
from torch import Tensor, nn

import kvmem

B, C, D, T = 3, 8, 5, 6
SPATIAL = {"tokens": (35,), "image": (5, 7), "video": (2, 3, 4), "four": (2, 2, 3, 2)}
DTYPES = (torch.float32, torch.bfloat16)


def make_layer(channel_dim: int, backend: str, dtype: torch.dtype) -> kvmem.KVMemoryLayer:
    torch.manual_seed(1)
    return kvmem.KVMemoryLayer(C, D, channel_dim=channel_dim, backend=backend, dtype=dtype)


def run(layer: nn.Module, image: Tensor, words: Tensor, mask: Tensor, upstream: Tensor) -> list[Tensor]:
    """Response, attention, and the gradients of image, words and parameters."""
    image, words = (tensor.detach().requires_grad_() for tensor in (image, words))
    out, attention = layer(image, words, mask, return_attention=True)
    gradients = torch.autograd.grad((out * upstream).sum() + attention.sum(), [image, words, *layer.parameters()])
    return [out, attention, *gradients]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channel_dim", [1, -1])
@pytest.mark.parametrize("spatial", SPATIAL.values(), ids=SPATIAL)
def test_the_image_layouts_results_bit_for_bit(backend, dtype, channel_dim, spatial):
    """Of the same positions in a (B, C, H, W), contiguous where channels come first, else channels_last."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.Size(spatial).numel()
    rows = spatial[0] if len(spatial) == 2 else positions // spatial[-1]
    flat, upstream = (torch.randn(B, C, rows, positions // rows, generator=generator).to(dtype) for _ in range(2))
    words = torch.randn(B, T, D, generator=generator).to(dtype)
    mask = torch.tensor([[True, False, True, True, True, False]]).expand(B, T)
    memory_format = torch.contiguous_format if channel_dim == 1 else torch.channels_last
    flat, upstream = (one.contiguous(memory_format=memory_format) for one in (flat, upstream))
    expected = run(make_layer(1, backend, dtype), flat, words, mask, upstream)

    def features(image: Tensor) -> Tensor:
        first = image.reshape(B, -1, *spatial)
        return first.contiguous() if channel_dim == 1 else first.movedim(1, -1).contiguous()

    found = run(make_layer(channel_dim, backend, dtype), features(flat), words, mask, features(upstream))
    assert found[0].shape == features(flat).shape and found[1].shape == (B, T, *spatial)
    assert found[0].is_contiguous() and found[2].is_contiguous()
    assert torch.equal(found[0], features(expected[0])) and torch.equal(found[2], features(expected[2]))
    assert torch.equal(found[1].flatten(2), expected[1].flatten(2))
    for mine, theirs in zip(found[3:], expected[3:], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("shape", [(B, 35, C), (B, 5, 7, C), (B, 2, 3, 4, C)])
def test_no_layout_is_copied(extension, shape, monkeypatch):
    """The operator gets the very memory of the features, in one of the two orders that the kernels read."""
    given: list[Tensor] = []
    original = kvmem.functional.ops.kv_memory

    def look(operators: str, image: Tensor, *rest):
        given.append(image)
        return original(operators, image, *rest)

    monkeypatch.setattr(kvmem.functional.ops, "kv_memory", look)
    image, words = torch.randn(shape), torch.randn(B, T, D)
    make_layer(-1, "cpu", torch.float32)(image, words)
    make_layer(1, "cpu", torch.float32)(image.movedim(-1, 1).contiguous(), words)
    assert given[0].data_ptr() == image.data_ptr()
    assert given[0].is_contiguous(memory_format=torch.channels_last) and given[1].is_contiguous()


def test_one_channel_and_one_position(backend):
    """Where both orders are the same memory."""
    for shape in ((2, 1, 1), (2, 4, 1), (2, 1, 4)):
        torch.manual_seed(0)
        layer = kvmem.KVMemoryLayer(shape[-1], D, channel_dim=-1, backend=backend)
        first = kvmem.KVMemoryLayer(shape[-1], D, backend=backend)
        first.load_state_dict(layer.state_dict())
        image, words = torch.randn(shape), torch.randn(2, T, D)
        torch.testing.assert_close(layer(image, words), first(image.movedim(-1, 1), words).movedim(1, -1))


def test_tokens_compile_and_autocast(backend, fresh_compiler):
    layer, image, words = make_layer(-1, backend, torch.float32), torch.randn(B, 35, C), torch.randn(B, T, D)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image, words), layer(image, words))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(image, words).dtype == torch.bfloat16


def test_tokens_through_hooked_maps():
    """The modules are called with the same words, and the response has the tokens' shape."""
    layer, image, words = (
        make_layer(-1, None, torch.float64),
        torch.randn(B, 35, C).double(),
        torch.randn(B, T, D).double(),
    )
    expected = layer(image, words, return_attention=True)
    layer.key.register_forward_hook(lambda module, given, out: None)
    for mine, theirs in zip(layer(image, words, return_attention=True), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("channel_dim", [0, 2, None, "last"])
def test_other_dimensions_are_refused(channel_dim):
    with pytest.raises(ValueError, match=r"channel_dim: got .*, expected 1 .* or -1"):
        make_layer(channel_dim, "eager", torch.float32)


def test_features_without_a_position_or_a_spatial_dimension():
    layer = make_layer(-1, "eager", torch.float32)
    with pytest.raises(ValueError, match=r"image: got shape \(3, 8\), expected at least 3 dimensions \(B, N, C\)"):
        layer(torch.zeros(3, C), torch.zeros(3, T, D))
    with pytest.raises(ValueError, match="which has no position"):
        layer(torch.zeros(3, 0, C), torch.zeros(3, T, D))
    with pytest.raises(ValueError, match="image: got 9 channels, the layer was made for 8"):
        layer(torch.zeros(3, 4, 9), torch.zeros(3, T, D))
