"""The registered operators on the GPU under the framework's own machinery: opcheck, compile, export, autocast."""

import pytest
import torch
from kvmem_checks import assert_autocast_is_casting

import kvmem

SIZES = {
    "cluster": (2, 64, (5, 7), 18, 12),
    "general": (2, 16, (5, 7), 40, 12),
    "large": (2, 72, (5, 7), 70, 12),
}
CHANNELS = {"cluster": 64, "general": 24, "large": 72}


@pytest.fixture(params=SIZES)
def kind(request):
    return request.param


@pytest.fixture
def operators(namespace):
    return getattr(torch.ops, namespace)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_opcheck_forward(make_problem, operators, kind, dtype, channels_last, attention):
    problem = make_problem(*SIZES[kind], mask="partial", dtype=dtype, channels_last=channels_last).leaves()
    torch.library.opcheck(operators.kv_memory.default, problem.operator_arguments(attention))


@pytest.mark.parametrize("needs", [2**14 - 1, 0b10, 0b10000000000001])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_backward(make_problem, operators, kind, dtype, channels_last, needs):
    problem = make_problem(*SIZES[kind], mask="partial", dtype=dtype, channels_last=channels_last)
    arguments = problem.operator_arguments(return_attention=True)
    out, attention, *kept = operators.kv_memory(*arguments)
    for grad_attention in (None, attention):
        torch.library.opcheck(
            operators.kv_memory_backward.default,
            (out, grad_attention, *arguments[:15], *kept, *arguments[15:18], needs),
        )


def layer_and_inputs(backend, kind, dtype=torch.float32, channels_last=False, seed=0):
    torch.manual_seed(seed)
    channels = CHANNELS[kind]
    image = torch.randn(3, channels, 4, 5, device="cuda").to(dtype)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    words = torch.randn(3, 5, 12, device="cuda").to(dtype)
    mask = torch.rand(3, 5, device="cuda") < 0.7
    torch.manual_seed(100)
    layer = kvmem.KVMemoryLayer(channels, 12, backend=backend, device="cuda", dtype=dtype)
    return layer, (image.requires_grad_(), words.requires_grad_(), mask)


def gradients(layer, inputs, loss):
    return torch.autograd.grad(loss, [*inputs[:2], *layer.parameters()])


@pytest.fixture
def fresh_compiler(tmp_path, monkeypatch):
    """Nothing compiled before, in this process or on disk, where an operator of an earlier schema may be cached."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_compile_is_one_graph_and_the_same_result(backend, kind, fresh_compiler, channels_last, compiler):
    layer, inputs = layer_and_inputs(backend, kind, channels_last=channels_last)
    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    out, attention = compiled(*inputs, return_attention=True)
    expected, expected_attention = layer(*inputs, return_attention=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(attention, expected_attention)
    assert out.stride() == expected.stride()
    found = gradients(layer, inputs, out.square().sum() + attention.square().sum())
    loss = expected.square().sum() + expected_attention.square().sum()
    for result, reference in zip(found, gradients(layer, inputs, loss), strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-4, atol=1e-5)


def test_compile_with_dynamic_shapes(backend, kind, fresh_compiler):
    layer, _ = layer_and_inputs(backend, kind)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, height, width, slots in ((2, 3, 4, 5), (3, 6, 5, 7), (4, 2, 9, 11)):
        image = torch.randn(batch, CHANNELS[kind], height, width, device="cuda")
        words = torch.randn(batch, slots, 12, device="cuda")
        torch.testing.assert_close(compiled(image, words), layer(image, words))


def test_compile_with_cuda_graphs(backend, kind, fresh_compiler):
    layer, (image, words, mask) = layer_and_inputs(backend, kind)
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(compiled(image, words, mask), layer(image, words, mask))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(backend, namespace, kind, strict):
    layer, inputs = layer_and_inputs(backend, kind)
    batch = torch.export.Dim("batch", min=2)
    dynamic = {"image": {0: batch}, "words": {0: batch}, "mask": {0: batch}}
    exported = torch.export.export(layer, inputs, dynamic_shapes=dynamic, strict=strict)
    assert f"{namespace}.kv_memory.default" in [str(node.target) for node in exported.graph.nodes]
    _, others = layer_and_inputs(backend, kind, seed=1)
    others = tuple(tensor[:2].detach() for tensor in others)
    torch.testing.assert_close(exported.module()(*others), layer(*others))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_to_its_dtype_and_back_in_the_gradients(backend, kind, dtype):
    layer, inputs = layer_and_inputs(backend, kind)
    by_hand, _ = layer_and_inputs(backend, kind, dtype=dtype)
    assert_autocast_is_casting(layer, by_hand, inputs, gradients)


def test_checkpointing_recomputes_the_same_gradients(backend, kind):
    layer, inputs = layer_and_inputs(backend, kind)
    out = torch.utils.checkpoint.checkpoint(layer, *inputs, use_reentrant=False)
    expected = gradients(layer, inputs, layer(*inputs).sum())
    for result, reference in zip(gradients(layer, inputs, out.sum()), expected, strict=True):
        assert torch.equal(result, reference)
