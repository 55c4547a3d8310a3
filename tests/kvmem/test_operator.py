"""The registered operators and the layer under the framework's own machinery: opcheck, compile, export, autocast."""

from itertools import product

import pytest
import torch
from kvmem_framework import (
    Maker,
    assert_autocast_casts_nothing,
    assert_checkpointing_recomputes_the_same,
    assert_compiled_training_is_fused,
    assert_compiles_to_one_graph,
    assert_compiles_with_dynamic_shapes,
    assert_exports_with_a_dynamic_batch,
    opcheck_backward,
)


@pytest.mark.parametrize("widths", list(product(("scalar", "vector"), repeat=2)), ids=str)
def test_what_is_kept_is_as_large_as_the_operator_tells_the_compiler(make_problem, extension, widths):
    """kvmem/kept.py and csrc/cpu/kept.h say the same, whatever the widths of the gates."""
    problem = make_problem(mask="partial", write_gate_width=widths[0], response_gate_width=widths[1])
    torch.library.opcheck(torch.ops.kvmem.kv_memory.default, problem.operator_arguments(), test_utils="test_faketensor")


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
    opcheck_backward(make_problem(mask="partial", dtype=dtype, channels_last=channels_last), "kvmem", needs)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_compile_is_one_graph_and_the_same_result(backend, fresh_compiler, channels_last):
    assert_compiles_to_one_graph(Maker(backend), "aot_eager", channels_last)


def test_compiled_training_runs_the_fused_kernels_both_ways(extension, fresh_compiler):
    assert_compiled_training_is_fused(Maker("cpu"), "kvmem")


def test_inductor_compiles_the_fused_layer(extension, fresh_compiler):
    assert_compiles_to_one_graph(Maker("cpu"), "inductor", channels_last=False)


def test_compile_with_dynamic_shapes(backend, fresh_compiler):
    assert_compiles_with_dynamic_shapes(Maker(backend))


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(backend, strict):
    called = assert_exports_with_a_dynamic_batch(Maker(backend), strict)
    assert ("kvmem.kv_memory.default" in called) == (backend == "cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_neither_words_nor_parameters_nor_their_gradients(backend, dtype):
    assert_autocast_casts_nothing(Maker(backend), dtype)


def test_autocast_leaves_float64_alone(backend):
    maker = Maker(backend)
    layer, inputs = maker.layer(torch.float64), maker.inputs(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(*inputs)
    assert torch.equal(out, layer(*inputs))


def test_autocast_under_compile(backend, fresh_compiler):
    maker = Maker(backend)
    layer, inputs = maker.layer(), maker.inputs()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(*inputs), layer(*inputs))


def test_autocast_takes_mixed_precisions(backend):
    """A float32 layer on bfloat16 features, as after an autocast convolution."""
    maker = Maker(backend)
    layer, inputs = maker.layer(), maker.inputs()
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(*inputs)
        out = layer(inputs[0].bfloat16(), *inputs[1:])
    assert torch.equal(out, expected)


def test_checkpointing_recomputes_the_same_gradients(backend):
    assert_checkpointing_recomputes_the_same(Maker(backend))
