"""How the CUDA kernels' source runs on the CPU: launches, the same bits in any order, what is computed, sanitizers."""

import os
import pickle
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import simt_build
import torch
from kvmem_accuracy import DTYPES
from kvmem_cluster_shapes import CLUSTER_SHAPES
from kvmem_problems import make_problem
from simt_layer import gradients_of_outputs

from kvmem.kept import layer_memory

SHAPES = {
    "cluster": (2, 64, (9, 16), 18, 16, 32),
    "general": (2, 16, (5, 7), 6, 12, 32),
}


def kernel_names(call):
    """The kernels that a call launched, without namespaces and template arguments."""
    return [re.search(r"(\w+)<", launch["kernel"]).group(1) for launch in call["launches"]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_launches_of_the_cluster_path(layer, dtype):
    """One forward; backward one over the positions and at most three for the memory side's small gradients."""
    problem = make_problem(*SHAPES["cluster"], dtype=dtype)
    layer(problem, False, gradients_of_outputs(problem))
    assert (layer.forward["path"], layer.backward["path"]) == ("cluster", "cluster")
    assert kernel_names(layer.forward) == ["cluster_forward_kernel"]
    assert layer.forward["launches"][0]["cluster"] > 1
    assert kernel_names(layer.backward)[0].startswith("cluster_backward")
    assert len(layer.backward["launches"]) <= 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", CLUSTER_SHAPES)
def test_shapes_that_are_meant_for_clusters_take_them(layer, shape, dtype):
    """In both formats, without asking for anything; up to 128 positions a cluster is one block."""
    for channels_last in (False, True):
        problem = make_problem(1, *CLUSTER_SHAPES[shape][1:], dtype=dtype, channels_last=channels_last)
        layer(problem, False, gradients_of_outputs(problem))
        assert (layer.forward["path"], layer.backward["path"]) == ("cluster", "cluster")
        clusters = [call["launches"][0]["cluster"] for call in (layer.forward, layer.backward)]
        assert (clusters == [1, 1]) == (problem.image[0, 0].numel() <= 128), clusters


@pytest.mark.parametrize("batch, cluster", [(1, 16), (8, 16), (10, 8)])
def test_clusters_get_smaller_where_they_would_come_one_after_the_other(layer, batch, cluster):
    """A device of 132 multiprocessors runs eight clusters of 16 at a time: ten images would take it twice as long."""
    problem = make_problem(batch, 64, (64, 64), 18, 8, 16, dtype=torch.float32)
    layer.run_forward(problem)
    layer.run_backward(problem, problem.image, None, [True] + 13 * [False])
    assert layer.backward["launches"][0]["cluster"] == cluster


@pytest.mark.parametrize("name", ["sm_80", "sm_90"])
def test_a_plan_is_what_a_run_launches(kvmem_simt, layer, device, name):
    device(name)
    batch, channels, (height, width), slots, word_channels = CLUSTER_SHAPES["odd height"]
    problem = make_problem(*CLUSTER_SHAPES["odd height"], dtype=torch.bfloat16)
    layer.run_forward(problem)
    layer.run_backward(problem, problem.image, None)
    sizes = batch, channels, height * width, slots, word_channels
    for direction, call in (("forward", layer.forward), ("backward", layer.backward)):
        assert kvmem_simt.plan(direction, "bfloat16", *sizes) == call["launches"]


def test_clusters_lie_within_parts_of_the_device(kvmem_simt):
    """Two parts of 8 multiprocessors have no room for a cluster of 16 blocks, one a multiprocessor."""
    sizes = 4, 64, 128 * 128, 18, 256
    try:
        kvmem_simt.set_room([16] * 8, 1)
        assert kvmem_simt.plan("forward", "float32", *sizes)[0]["cluster"] == 16
        kvmem_simt.set_room([8] * 16, 1)
        assert kvmem_simt.plan("forward", "float32", *sizes)[0]["cluster"] == 8
    finally:
        kvmem_simt.set_room()


@pytest.mark.parametrize("detach_mean", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_launches_of_the_general_path(layer, dtype, detach_mean):
    """One for every step; the mean's gradient is added last, where it has one."""
    problem = make_problem(*SHAPES["general"], dtype=dtype, detach_mean=detach_mean)
    layer(problem, False, gradients_of_outputs(problem))
    assert (layer.forward["path"], layer.backward["path"]) == ("general", "general")
    forward = ["sum_chunks", "memory_forward_kernel", "pack_tables", "general_forward_tiles"]
    backward = ["pack_tables", "general_backward_chunks", "memory_backward_kernel", "multiply_products"]
    assert kernel_names(layer.forward) == forward
    assert kernel_names(layer.backward) == backward + ([] if detach_mean else ["add_mean_gradient"])


@pytest.mark.parametrize("widths", list(product(("scalar", "vector"), repeat=2)), ids=str)
def test_what_is_kept_is_as_large_as_the_operator_tells_the_compiler(layer, widths):
    """What kvmem/kept.py tells the compiler and csrc/cuda/layout.h say the same, whatever the widths of the gates."""
    problem = make_problem(
        *SHAPES["general"], write_gate_width=widths[0], response_gate_width=widths[1], dtype=torch.float32
    )
    layer.run_forward(problem)
    batch, channels = problem.image.shape[:2]
    kept = layer_memory(problem.words.shape[1], channels, *problem.weights.values())
    assert layer.forward["memory"].shape == (batch, kept)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gates", ["scalar", "vector"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_any_order_of_threads_gives_the_same_bits(layer, shape, gates, dtype, channels_last):
    """A missing barrier would show here, or as NaN: what nobody wrote yet is NaN."""
    widths = {"write_gate_width": gates, "response_gate_width": gates}
    problem = make_problem(*shape, dtype=dtype, mask="partial", channels_last=channels_last, **widths)
    grads = gradients_of_outputs(problem)
    expected = layer(problem, True, grads)
    for layer.seed in range(1, 5):
        for name, found in layer(problem, True, grads).items():
            assert torch.equal(found, expected[name]), f"{name}, seed {layer.seed}"


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_order_where_the_image_does_not_fit_on_chip(layer, device, dtype, channels_last):
    """Tiles that make way for others, too, and not one copied over another that is still read."""
    device("small sm_90, 32 bit" if dtype == torch.float32 else "small sm_90, 16 bit", 2)
    problem = make_problem(1, 64, (30, 32), 18, 16, 32, dtype=dtype, mask="partial", channels_last=channels_last)
    grads = gradients_of_outputs(problem)
    names = list(problem.inputs)
    expected = layer(problem, True, grads)
    assert (layer.forward["path"], layer.backward["path"]) == ("cluster", "cluster")
    for layer.seed in range(1, 4):
        results = [layer(problem, True, grads)]
        # Each of these leaves out some of the barriers that the other needs.
        for needed in ({"image"}, {*names} - {"image"}):
            results.append(layer.run_backward(problem, *grads, [name in needed for name in names]))
        for name, found in [item for result in results for item in result.items()]:
            reference = expected.get(name, expected.get(f"gradient of {name}"))
            assert torch.equal(found, reference), f"{name}, seed {layer.seed}"


@pytest.mark.parametrize("detach_mean", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_only_the_gradients_that_are_needed(layer, shape, detach_mean):
    """Each alone, none, all but one: the same bits as with all of them."""
    problem = make_problem(*shape, dtype=torch.bfloat16, mask="partial", detach_mean=detach_mean)
    grad_out, grad_attention = gradients_of_outputs(problem)
    layer.run_forward(problem)
    names = list(problem.inputs)
    everything = layer.run_backward(problem, grad_out, grad_attention)
    wanted = [[], ["image"], ["words"], ["image", "words"], names[2:], names[:-1], *([name] for name in names[2:])]
    for needed in wanted:
        found = layer.run_backward(problem, grad_out, grad_attention, [name in needed for name in names])
        assert list(found) == needed
        for name, gradient in found.items():
            assert torch.equal(gradient, everything[name]), f"{name} of {needed}"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_no_image(layer, shape):
    """B=0: nothing to read, weight gradients of zero."""
    problem = make_problem(*shape)
    problem = problem.with_inputs([problem.image[:0], problem.words[:0], *list(problem.inputs.values())[2:]])
    found = layer(problem, True, gradients_of_outputs(problem))
    assert found["out"].numel() == 0
    for name in list(problem.inputs)[2:]:
        assert not found[f"gradient of {name}"].any(), name


RUN_SANITIZED = """
import importlib.util, pickle, sys

spec = importlib.util.spec_from_file_location("kvmem_simt", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
with open(sys.argv[2], "rb") as file:
    cases = pickle.load(file)
for case in cases:
    forward = module.forward(case["inputs"], case["mask"], True, **case["settings"])
    backward = module.backward(
        case["inputs"], case["mask"], forward, case["grad_out"], case["grad_attention"], [True] * 14, **case["settings"]
    )
    found = {**forward, **backward["gradients"]}
    for name, expected in case["expected"].items():
        assert found[name].tobytes() == expected.tobytes(), name
print(len(cases), "cases ran")
"""


def test_sanitizers(layer, sanitized: Path, tmp_path: Path):
    """No access outside an array and no undefined behaviour, and the same bits as without the sanitizers."""
    shapes = (SHAPES["cluster"], SHAPES["general"], (1, 13, (3, 5), 33, 7, 9))
    cases = []
    for layer.seed, shape in enumerate(shapes):
        for dtype in DTYPES:
            problem = make_problem(*shape, dtype=dtype, mask="partial", channels_last=dtype is torch.bfloat16)
            cases.append(layer.recorded(problem, gradients_of_outputs(problem)))
    (tmp_path / "cases.pickle").write_bytes(pickle.dumps(cases))
    command = [sys.executable, "-c", RUN_SANITIZED, str(sanitized), str(tmp_path / "cases.pickle")]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(simt_build.sanitizer_libraries()),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-8000:]
    assert done.stdout == f"{len(cases)} cases ran\n"
