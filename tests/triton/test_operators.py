"""The Triton operators under the framework's own machinery, run by Triton's interpreter: opcheck, compile, export."""

import pytest
import torch
from functorch.compile import make_boxed_func
from kvmem_checks import assert_autocast_is_casting
from kvmem_problems import make_problem
from torch._dynamo.backends.common import aot_autograd

import kvmem

pytestmark = pytest.mark.usefixtures("interpreter")

SIZES = (2, 8, (3, 4), 5, 8, 8)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("dtype, channels_last", [(torch.float32, False), (torch.bfloat16, True)])
def test_opcheck_forward(dtype, channels_last, attention):
    problem = make_problem(*SIZES, mask="partial", dtype=dtype, channels_last=channels_last).leaves()
    torch.library.opcheck(torch.ops.kvmem_triton.kv_memory.default, problem.operator_arguments(attention))


@pytest.mark.parametrize("needs", [2**14 - 1, 0b10000000000001])
@pytest.mark.parametrize("dtype, channels_last", [(torch.float32, True), (torch.bfloat16, False)])
def test_opcheck_backward(dtype, channels_last, needs):
    problem = make_problem(*SIZES, mask="partial", dtype=dtype, channels_last=channels_last)
    arguments = problem.operator_arguments(return_attention=True)
    out, attention, *kept = torch.ops.kvmem_triton.kv_memory(*arguments)
    for grad_attention in (None, attention):
        torch.library.opcheck(
            torch.ops.kvmem_triton.kv_memory_backward.default,
            (out, grad_attention, *arguments[:15], *kept, *arguments[15:18], needs),
        )


@pytest.mark.parametrize("name", ["kv_memory", "kv_memory_backward"])
def test_all_backends_have_one_schema(extension, name):
    """But for the namespace: what csrc/torch_ops.cpp defines, and kvmem/ops.py."""
    compiled, triton = (getattr(torch.ops, namespace) for namespace in ("kvmem", "kvmem_triton"))
    expected = str(getattr(compiled, name).default._schema)
    assert str(getattr(triton, name).default._schema) == expected.replace("kvmem::", "kvmem_triton::")


def layer_and_inputs(dtype=torch.float32, channels_last=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(0)
    layer = kvmem.KVMemoryLayer(8, 12, backend="triton", dtype=dtype)
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


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_compile_is_one_graph_and_the_same_result(fresh_compiler, channels_last, compiler):
    layer, inputs = layer_and_inputs(channels_last=channels_last)
    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    out, attention = compiled(*inputs, return_attention=True)
    expected, expected_attention = layer(*inputs, return_attention=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(attention, expected_attention)
    assert out.stride() == expected.stride()
    found = gradients(layer, inputs, out.square().sum() + attention.square().sum())
    reference = gradients(layer, inputs, expected.square().sum() + expected_attention.square().sum())
    torch.testing.assert_close(found, reference)


def test_compiled_training_runs_the_fused_kernels_both_ways(fresh_compiler):
    """The backward graph holds the fused backward, not the eager form that second derivatives take."""
    layer, inputs = layer_and_inputs()
    graphs = []

    def keep(graph, example_inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return make_boxed_func(graph)

    compiled = torch.compile(layer, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    compiled(*inputs).sum().backward()
    forward, backward = graphs
    assert "kvmem_triton.kv_memory.default" in forward
    assert "kvmem_triton.kv_memory_backward.default" in backward
    assert not any("softmax" in target for target in forward + backward)


def test_compile_with_dynamic_shapes(fresh_compiler):
    layer, _ = layer_and_inputs()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, height, width, slots in ((2, 3, 4, 5), (3, 6, 5, 7)):
        image, words = torch.randn(batch, 8, height, width), torch.randn(batch, slots, 12)
        torch.testing.assert_close(compiled(image, words), layer(image, words))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(strict):
    layer, inputs = layer_and_inputs()
    batch = torch.export.Dim("batch", min=2)
    dynamic = {"image": {0: batch}, "words": {0: batch}, "mask": {0: batch}}
    exported = torch.export.export(layer, inputs, dynamic_shapes=dynamic, strict=strict)
    assert "kvmem_triton.kv_memory.default" in [str(node.target) for node in exported.graph.nodes]
    _, others = layer_and_inputs(seed=1)
    others = tuple(tensor[:2].detach() for tensor in others)
    torch.testing.assert_close(exported.module()(*others), layer(*others))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_to_its_dtype_and_back_in_the_gradients(dtype):
    layer, inputs = layer_and_inputs()
    by_hand, _ = layer_and_inputs(dtype=dtype)
    assert_autocast_is_casting(layer, by_hand, inputs, gradients)


def test_the_environment_picks_the_triton_operators(called_operators, monkeypatch):
    monkeypatch.setenv("KVMEM_BACKEND", "triton")
    problem = make_problem(*SIZES, mask="partial").leaves()
    with called_operators() as called:
        problem.run().sum().backward()
    for name in ("kvmem_triton::kv_memory", "kvmem_triton::kv_memory_backward"):
        assert called.names.count(name) == 1
    assert not any(name.startswith("kvmem::kv_memory") or "softmax" in name for name in called.names)
