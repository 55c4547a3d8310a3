"""The registered operators on the GPU under the framework's own machinery: opcheck, compile, export, autocast."""

import pytest
import torch
from kvmem_cluster_shapes import CLUSTER_SHAPES
from kvmem_framework import (
    Maker,
    assert_autocast_casts_nothing,
    assert_checkpointing_recomputes_the_same,
    assert_compiles_to_one_graph,
    assert_compiles_with_dynamic_shapes,
    assert_exports_with_a_dynamic_batch,
    opcheck_backward,
)

SIZES = {
    "cluster": CLUSTER_SHAPES["40 positions"],
    "general": (2, 16, (5, 7), 40, 12),
    "large": (2, 72, (5, 7), 70, 12),
}
CHANNELS = {"cluster": 64, "general": 24, "large": 72}


@pytest.fixture(params=SIZES)
def kind(request):
    return request.param


@pytest.fixture
def maker(backend, kind):
    return Maker(backend, CHANNELS[kind], "cuda")


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_opcheck_forward(make_problem, namespace, kind, dtype, channels_last, attention):
    problem = make_problem(*SIZES[kind], mask="partial", dtype=dtype, channels_last=channels_last).leaves()
    operator = getattr(torch.ops, namespace).kv_memory.default
    torch.library.opcheck(operator, problem.operator_arguments(attention))


@pytest.mark.parametrize("needs", [2**14 - 1, 0b10, 0b10000000000001])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_backward(make_problem, namespace, kind, dtype, channels_last, needs):
    problem = make_problem(*SIZES[kind], mask="partial", dtype=dtype, channels_last=channels_last)
    opcheck_backward(problem, namespace, needs)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_compile_is_one_graph_and_the_same_result(maker, fresh_compiler, channels_last, compiler):
    assert_compiles_to_one_graph(maker, compiler, channels_last)


def test_compile_with_dynamic_shapes(maker, fresh_compiler):
    assert_compiles_with_dynamic_shapes(maker)


def test_compile_with_cuda_graphs(maker, fresh_compiler):
    layer, inputs = maker.layer(), maker.inputs()
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(compiled(*inputs), layer(*inputs))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(maker, namespace, strict):
    assert f"{namespace}.kv_memory.default" in assert_exports_with_a_dynamic_batch(maker, strict)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_neither_words_nor_parameters_nor_their_gradients(maker, dtype):
    assert_autocast_casts_nothing(maker, dtype)


def test_checkpointing_recomputes_the_same_gradients(maker):
    assert_checkpointing_recomputes_the_same(maker)
