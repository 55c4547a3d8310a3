"""The registered operators and the layer under the framework's own machinery: opcheck, compile, export, autocast."""

import pytest
import torch
from functorch.compile import make_boxed_func
from kvmem_checks import assert_autocast_is_casting
from torch._dynamo.backends.common import aot_autograd

import kvmem


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_opcheck_forward(make_problem, extension, dtype, channels_last, attention):
    problem = make_problem(mask="partial", dtype=dtype, channels_last=channels_last).leaves()
    torch.library.opcheck(torch.ops.kvmem.kv_memory.default, problem.operator_arguments(attention))


@pytest.mark.parametrize("needs", [2**14 - 1, 0b10, 0b10000000000001])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_opcheck_backward(make_problem, extension, dtype, channels_last, needs):
    problem = make_problem(mask="partial", dtype=dtype, channels_last=channels_last)
    arguments = problem.operator_arguments(return_attention=True)
    out, attention, *kept = torch.ops.kvmem.kv_memory(*arguments)
    for grad_attention in (None, attention):
        torch.library.opcheck(
            torch.ops.kvmem.kv_memory_backward.default,
            (out, grad_attention, *arguments[:15], *kept, *arguments[15:18], needs),
        )


def layer_and_inputs(backend, dtype=torch.float32, channels_last=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(0)
    layer = kvmem.KVMemoryLayer(8, 12, backend=backend, dtype=dtype)
    image = torch.randn(3, 8, 4, 5, generator=generator).to(dtype)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    words = torch.randn(3, 5, 12, generator=generator).to(dtype)
    mask = torch.rand(3, 5, generator=generator) < 0.7
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


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_compile_is_one_graph_and_the_same_result(backend, fresh_compiler, channels_last):
    layer, inputs = layer_and_inputs(backend, channels_last=channels_last)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    out, attention = compiled(*inputs, return_attention=True)
    expected, expected_attention = layer(*inputs, return_attention=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(attention, expected_attention)
    assert out.stride() == expected.stride()
    found = gradients(layer, inputs, out.square().sum() + attention.square().sum())
    for result, reference in zip(
        found, gradients(layer, inputs, expected.square().sum() + expected_attention.square().sum()), strict=True
    ):
        torch.testing.assert_close(result, reference)


def test_compiled_training_runs_the_fused_kernels_both_ways(extension, fresh_compiler):
    """The backward graph holds the fused backward, not the eager form that second derivatives take."""
    layer, inputs = layer_and_inputs("cpu")
    graphs = []

    def keep(graph, example_inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return make_boxed_func(graph)

    compiled = torch.compile(layer, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    compiled(*inputs).sum().backward()
    forward, backward = graphs
    assert "kvmem.kv_memory.default" in forward
    assert "kvmem.kv_memory_backward.default" in backward
    assert not any("softmax" in target for target in forward + backward)


def test_inductor_compiles_the_fused_layer(extension, fresh_compiler):
    layer, inputs = layer_and_inputs("cpu")
    compiled = torch.compile(layer, fullgraph=True)
    out, expected = compiled(*inputs), layer(*inputs)
    torch.testing.assert_close(out, expected)
    found = gradients(layer, inputs, out.square().sum())
    for result, reference in zip(found, gradients(layer, inputs, expected.square().sum()), strict=True):
        torch.testing.assert_close(result, reference)


def test_compile_with_dynamic_shapes(backend, fresh_compiler):
    layer, _ = layer_and_inputs(backend)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, height, width, slots in ((2, 3, 4, 5), (3, 6, 5, 7), (4, 2, 9, 11)):
        image, words = torch.randn(batch, 8, height, width), torch.randn(batch, slots, 12)
        torch.testing.assert_close(compiled(image, words), layer(image, words))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(backend, strict):
    layer, inputs = layer_and_inputs(backend)
    batch = torch.export.Dim("batch", min=2)
    dynamic = {"image": {0: batch}, "words": {0: batch}, "mask": {0: batch}}
    exported = torch.export.export(layer, inputs, dynamic_shapes=dynamic, strict=strict)
    targets = [str(node.target) for node in exported.graph.nodes]
    assert ("kvmem.kv_memory.default" in targets) == (backend == "cpu")
    _, others = layer_and_inputs(backend, seed=1)
    others = tuple(tensor[:2].detach() for tensor in others)
    torch.testing.assert_close(exported.module()(*others), layer(*others))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_to_its_dtype_and_back_in_the_gradients(backend, dtype):
    layer, inputs = layer_and_inputs(backend)
    by_hand, _ = layer_and_inputs(backend, dtype=dtype)
    assert_autocast_is_casting(layer, by_hand, inputs, gradients)


def test_autocast_leaves_float64_alone(backend):
    layer, inputs = layer_and_inputs(backend, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(*inputs)
    assert torch.equal(out, layer(*inputs))


def test_autocast_under_compile(backend, fresh_compiler):
    layer, inputs = layer_and_inputs(backend)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(*inputs), layer(*inputs))


def test_autocast_takes_mixed_precisions(backend):
    """A float32 layer on bfloat16 features, as after an autocast convolution."""
    layer, inputs = layer_and_inputs(backend)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(*inputs)
        out = layer(inputs[0].bfloat16(), *inputs[1:])
    assert torch.equal(out, expected)


def test_checkpointing_recomputes_the_same_gradients(backend):
    layer, inputs = layer_and_inputs(backend)
    out = torch.utils.checkpoint.checkpoint(layer, *inputs, use_reentrant=False)
    for result, reference in zip(
        gradients(layer, inputs, out.sum()), gradients(layer, inputs, layer(*inputs).sum()), strict=True
    ):
        assert torch.equal(result, reference)
