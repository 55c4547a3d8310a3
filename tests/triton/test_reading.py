"""The Triton kernels of `memory_read`, run by Triton's interpreter, and the machinery of its operators."""

import pytest
import torch
from kvmem_accuracy import DTYPES, assert_accurate, results
from kvmem_read_problems import GATES, make_read_problem

# Branch; batch, channels, (height, width), slots; what forward and backward launch is below.
SHAPES = {
    "odd N": ("tuned", (2, 16, (5, 7), 6)),
    "N=1": ("tuned", (2, 16, (1, 1), 5)),
    "C=13, T=16": ("tuned", (2, 13, (6, 5), 16)),
    "C=64, two chunks": ("tuned", (1, 64, (9, 16), 18)),
    "T=33": ("general", (1, 24, (5, 8), 33)),
    "C=72": ("general", (1, 72, (5, 7), 6)),
}
FORWARD = {
    "tuned": ["kv_memory_take", "kv_memory_read"],
    "general": ["kv_memory_take", "kv_memory_response", "kv_memory_read"],
}
BACKWARD = {
    "tuned": ["kv_memory_read_backward", "kv_memory_given_backward", "kv_memory_given_gate_backward"],
    "general": [
        "kv_memory_blocks_backward",
        "kv_memory_sums_backward",
        "kv_memory_given_backward",
        "kv_memory_given_gate_backward",
    ],
}


def launched(branch, gate):
    """A kernel that has nothing to do isn't launched."""
    without = ("kv_memory_response", "kv_memory_given_gate_backward") if gate == "none" else ()
    return [name for name in FORWARD[branch] + BACKWARD[branch] if name not in without]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("name", SHAPES)
def test_accuracy(read_launches, name, gate, dtype):
    """Formats and masks take turns from test to test."""
    branch, shape = SHAPES[name]
    branch = "general" if gate == "vector" and dtype == torch.float32 else branch
    turn = list(SHAPES).index(name) + list(GATES).index(gate)
    mask = ("none", "partial", "one image masked")[turn % 3]
    variants = [{"gate": gate, "mask": mask, "channels_last": turn % 2 == 1}]

    def backend(problem, attention, grads):
        read_launches.clear()
        found = results(problem, "triton", attention, grads)
        assert [launch.name for launch in read_launches] == launched(branch, gate)
        return found

    settings = {"dtype": dtype, "variants": variants, "draws": 2, "neighbours": 4}
    assert_accurate(make_read_problem, *shape, **settings, backend=backend)


@pytest.mark.parametrize("gate", GATES)
def test_only_needed_gradients(interpreter, gate):
    """A gradient that nobody asked for comes back empty; the others don't change by a bit."""
    for slots in (6, 40):
        problem = make_read_problem(2, 8, (3, 4), slots, gate=gate, mask="partial")
        *tensors, _ = problem.operator_arguments()
        operators = torch.ops.kvmem_triton
        out, attention, *kept = operators.memory_read(*tensors, True)
        count = len(problem.inputs)

        def gradients(needs, out=out, attention=attention, tensors=tensors, kept=kept):
            return torch.ops.kvmem_triton.memory_read_backward(out, attention, *tensors, *kept, needs)

        everything = gradients(2**count - 1)
        for needs in (0, *(1 << i for i in range(count)), 2**count - 2):
            for i, (found, expected) in enumerate(zip(gradients(needs), everything, strict=True)):
                assert torch.equal(found, expected) if needs >> i & 1 else found.shape == (0,), (needs, i)


def test_masked_slots_may_hold_nan(interpreter):
    problem = make_read_problem(2, 8, (3, 4), 7, gate="vector", mask="one image masked")
    expected = problem.run("plain")
    problem.keys[~problem.mask] = problem.values[~problem.mask] = float("nan")
    problem = problem.leaves()
    out = problem.run("triton")
    torch.testing.assert_close(out, expected)
    assert all(one.isfinite().all() for one in torch.autograd.grad(out.sum(), list(problem.inputs.values())))


@pytest.mark.parametrize("gate", GATES)
def test_opcheck(interpreter, gate):
    problem = make_read_problem(2, 8, (2, 3), 5, gate=gate, mask="partial").leaves()
    torch.library.opcheck(torch.ops.kvmem_triton.memory_read.default, problem.operator_arguments(True))


def test_what_the_operators_refuse(interpreter):
    """Calls from elsewhere that would read out of bounds."""
    problem = make_read_problem(2, 8, (2, 3), 5)
    *tensors, _ = problem.operator_arguments()
    operators = torch.ops.kvmem_triton
    with pytest.raises(ValueError, match="keys: got shape"):
        operators.memory_read(tensors[0], tensors[1][:1], *tensors[2:], False)
    out, _, *kept = operators.memory_read(*tensors, False)
    with pytest.raises(ValueError, match="grad_out: got shape"):
        operators.memory_read_backward(out[:1], None, *tensors, *kept, 1)
    with pytest.raises(ValueError, match="memory: got shape"):
        operators.memory_read_backward(out, None, *tensors, kept[0][:, 1:], 1)
    with pytest.raises(ValueError, match="needs: asks for the gradient of a response gate"):
        operators.memory_read_backward(out, None, *tensors[:4], None, None, kept[0][:, :80], 0b1000)
