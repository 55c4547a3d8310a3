"""The CUDA kernels of `memory_read`, run on the CPU: accuracy, launches, orders of threads, needed gradients."""

import re

import pytest
import torch
from kvmem_accuracy import DTYPES, FORMATS, assert_accurate
from kvmem_read_problems import GATES, make_read_problem
from simt_layer import SimtLayer, gradients_of_outputs

from kvmem.kept import given_memory

# batch, channels, (height, width), slots
SHAPES = {
    "odd N": (2, 16, (5, 7), 6),
    "N=1": (3, 16, (1, 1), 5),
    "T=1": (2, 16, (4, 6), 1),
    "T=128": (1, 32, (7, 9), 128),
    "C=13": (2, 13, (6, 5), 7),
    "C=64": (1, 64, (16, 16), 18),
    "C=200": (1, 200, (3, 7), 40),
}


@pytest.fixture
def reading(kvmem_simt):
    return SimtLayer(kvmem_simt, ("read", "read_backward"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_accuracy(reading, shape, gate, dtype):
    variants = [{"gate": gate, "mask": "one image masked", "channels_last": last} for last in FORMATS]
    assert_accurate(make_read_problem, *shape, dtype=dtype, variants=variants, backend=reading, draws=2)


@pytest.mark.parametrize("device_name", ["sm_80", "sm_90"])
@pytest.mark.parametrize("gate", GATES)
def test_launches(reading, device, gate, device_name):
    """The memory, its tables and the positions; back, and a launch of products where there is a gate."""
    device(device_name)
    problem = make_read_problem(2, 64, (8, 8), 18, gate=gate)
    reading(problem, True, gradients_of_outputs(problem))

    def names(call):
        return [re.search(r"(\w+)<", launch["kernel"]).group(1) for launch in call["launches"]]

    # Without clusters of blocks what a gate adds is a launch of its own.
    steps = 2 if gate != "none" and device_name == "sm_80" else 1
    assert names(reading.forward) == steps * ["given_memory_kernel"] + ["pack_tables", "general_forward_tiles"]
    expected = ["pack_tables", "general_backward_chunks", *steps * ["given_memory_backward_kernel"]]
    assert names(reading.backward) == expected + ([] if gate == "none" else ["multiply_products"])


@pytest.mark.parametrize("gate", GATES)
def test_what_is_kept_is_as_large_as_the_operator_tells_the_compiler(reading, gate):
    problem = make_read_problem(gate=gate)
    reading.run_forward(problem)
    kept = given_memory(problem.slots, problem.image.shape[1], problem.gate.get("response_gate_weight"))
    assert reading.forward["memory"].shape == (problem.image.shape[0], kept)


@pytest.mark.parametrize("gate", GATES)
def test_any_order_of_threads_gives_the_same_bits(kvmem_simt, gate):
    """A missing barrier would show here, or as NaN: what nobody wrote yet is NaN, and what stands in masked slots."""
    problem = make_read_problem(2, 40, (9, 16), 20, gate=gate, mask="partial")
    problem.keys[~problem.mask] = problem.values[~problem.mask] = float("nan")
    found = []
    for seed in range(3):
        reading = SimtLayer(kvmem_simt, ("read", "read_backward"), seed=seed, misalignment=seed)
        found.append(reading(problem, True, gradients_of_outputs(problem)))
    for one in found:
        assert all(tensor.isfinite().all() for tensor in one.values())
        assert all(torch.equal(tensor, found[0][name]) for name, tensor in one.items())


@pytest.mark.parametrize("gate", GATES)
def test_only_needed_gradients(reading, gate):
    problem = make_read_problem(gate=gate, mask="partial")
    grads = gradients_of_outputs(problem)
    reading.run_forward(problem)
    everything = reading.run_backward(problem, *grads)
    for i, name in enumerate(problem.inputs):
        needs = [j == i for j in range(len(problem.inputs))]
        found = reading.run_backward(problem, *grads, needs)
        assert list(found) == [name] and torch.equal(found[name], everything[name])


@pytest.mark.parametrize("gate", GATES)
def test_no_slots(reading, gate):
    problem = make_read_problem(2, 16, (5, 7), 0, gate=gate)
    found = reading(problem, True, gradients_of_outputs(problem))
    torch.testing.assert_close(found["out"], problem.run("plain"))
