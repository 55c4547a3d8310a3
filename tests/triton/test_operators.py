"""The Triton operators under the framework's own machinery, run by Triton's interpreter: opcheck, compile, export."""

import pytest
import torch
from kvmem_framework import (
    Maker,
    assert_autocast_casts_nothing,
    assert_compiled_training_is_fused,
    assert_compiles_to_one_graph,
    assert_compiles_with_dynamic_shapes,
    assert_exports_with_a_dynamic_batch,
    opcheck_backward,
)
from kvmem_problems import CalledOperators, make_problem

pytestmark = pytest.mark.usefixtures("interpreter")

SIZES = (2, 8, (3, 4), 5, 8, 8)
MAKER = Maker("triton")


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("dtype, channels_last", [(torch.float32, False), (torch.bfloat16, True)])
def test_opcheck_forward(dtype, channels_last, attention):
    problem = make_problem(*SIZES, mask="partial", dtype=dtype, channels_last=channels_last).leaves()
    torch.library.opcheck(torch.ops.kvmem_triton.kv_memory.default, problem.operator_arguments(attention))


@pytest.mark.parametrize("needs", [2**14 - 1, 0b10000000000001])
@pytest.mark.parametrize("dtype, channels_last", [(torch.float32, True), (torch.bfloat16, False)])
def test_opcheck_backward(dtype, channels_last, needs):
    problem = make_problem(*SIZES, mask="partial", dtype=dtype, channels_last=channels_last)
    opcheck_backward(problem, "kvmem_triton", needs)


@pytest.mark.parametrize("name", ["kv_memory", "kv_memory_backward"])
def test_all_backends_have_one_schema(extension, name):
    """But for the namespace: what csrc/torch_ops.cpp defines, and kvmem/ops.py."""
    compiled, triton = (getattr(torch.ops, namespace) for namespace in ("kvmem", "kvmem_triton"))
    expected = str(getattr(compiled, name).default._schema)
    assert str(getattr(triton, name).default._schema) == expected.replace("kvmem::", "kvmem_triton::")


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_compile_is_one_graph_and_the_same_result(fresh_compiler, channels_last, compiler):
    assert_compiles_to_one_graph(MAKER, compiler, channels_last)


def test_compiled_training_runs_the_fused_kernels_both_ways(fresh_compiler):
    assert_compiled_training_is_fused(MAKER, "kvmem_triton")


def test_compile_with_dynamic_shapes(fresh_compiler):
    assert_compiles_with_dynamic_shapes(MAKER)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(strict):
    assert "kvmem_triton.kv_memory.default" in assert_exports_with_a_dynamic_batch(MAKER, strict)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_neither_words_nor_parameters_nor_their_gradients(dtype):
    assert_autocast_casts_nothing(MAKER, dtype)


def test_the_environment_picks_the_triton_operators(monkeypatch):
    monkeypatch.setenv("KVMEM_BACKEND", "triton")
    problem = make_problem(*SIZES, mask="partial").leaves()
    with CalledOperators() as called:
        problem.run().sum().backward()
    for name in ("kvmem_triton::kv_memory", "kvmem_triton::kv_memory_backward"):
        assert called.names.count(name) == 1
    assert not any(name.startswith("kvmem::kv_memory") or "softmax" in name for name in called.names)
