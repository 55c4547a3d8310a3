"""The CUDA kernels with words and weights in float32 beside an image of 16 bits, run on the CPU."""

import pytest
import torch
from kvmem_accuracy import assert_accurate
from kvmem_problems import WIDE, make_problem, widening
from kvmem_read_problems import GATES, make_read_problem
from simt_layer import SimtLayer, gradients_of_outputs

HALVES = [torch.bfloat16, torch.float16]
# batch, channels, (height, width), slots, word channels, memory channels
SHAPES = {
    "cluster": (2, 64, (9, 16), 18, 16, 32),
    "cluster, odd D and M": (1, 64, (8, 8), 12, 13, 11),
    "cluster, T=32": (1, 64, (9, 16), 32, 12, 40),
    "general": (2, 16, (5, 7), 6, 12, 32),
    "general, T=40": (1, 13, (6, 5), 40, 9, 11),
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("wide", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("shape", SHAPES)
def test_accuracy(layer, shape, wide, dtype):
    widths = ("scalar",) if shape.startswith("cluster") else ("scalar", "vector")
    variants = [
        {"mask": "partial", "channels_last": last, "write_gate_width": width, "response_gate_width": width}
        for width in widths
        for last in (False, True)
    ]

    def call(problem, attention, grads):
        found = layer(problem, attention, grads)
        assert {layer.forward["path"], layer.backward["path"]} == {shape.split(",")[0]}
        return found

    make = widening(make_problem, wide)
    assert_accurate(make, *SHAPES[shape], dtype=dtype, variants=variants, backend=call, draws=1)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("wide", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("gate", GATES)
def test_accuracy_of_reading(kvmem_simt, gate, wide, dtype):
    reading = SimtLayer(kvmem_simt, ("read", "read_backward"))
    variants = [{"gate": gate, "mask": "partial", "channels_last": last} for last in (False, True)]
    assert_accurate(widening(make_read_problem, wide), dtype=dtype, variants=variants, backend=reading, draws=1)


@pytest.mark.parametrize("wide", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_launch_more_and_the_same_bits_in_any_order(layer, shape, wide):
    """Nor does it matter where the caller's tensors begin, in multiples of their numbers."""
    problem = make_problem(*SHAPES[shape], dtype=torch.bfloat16, mask="partial")
    grads = gradients_of_outputs(problem)
    layer(problem, True, grads)
    launched = [len(call["launches"]) for call in (layer.forward, layer.backward)]
    problem = problem.widened(wide)
    expected = layer(problem, True, grads)
    assert [len(call["launches"]) for call in (layer.forward, layer.backward)] == launched
    for layer.seed in (1, 2):
        for name, found in layer(problem, True, grads).items():
            assert torch.equal(found, expected[name]), f"{name}, seed {layer.seed}"
    layer.misalignment = 1
    for name, found in layer(problem, True, grads).items():
        torch.testing.assert_close(found, expected[name], rtol=0.05, atol=0.05 * expected[name].abs().max().item())


@pytest.mark.parametrize("shape", ["cluster", "general"])
def test_parameters_are_read_as_they_are(layer, shape):
    """Scaled by what 16 bits don't hold, they give other digits of what is kept in float32."""
    problem = make_problem(*SHAPES[shape], dtype=torch.bfloat16).widened()
    image, *others = problem.inputs.values()
    layer.run_forward(problem)
    before = torch.from_numpy(layer.forward["memory"])
    layer.run_forward(problem.with_inputs([image, *(tensor * (1 + 2**-12) for tensor in others)]))
    after = torch.from_numpy(layer.forward["memory"])
    assert (before != after).float().mean() > 0.4


@pytest.mark.parametrize("wide", [None, *WIDE.values()])
def test_where_there_are_no_clusters_the_memory_side_s_steps_are_launches(layer, device, wide):
    """The same numbers as from one launch, by blocks that share an image in both cases."""
    problem = make_problem(*SHAPES["general"], dtype=torch.bfloat16, mask="partial")
    problem = problem if wide is None else problem.widened(wide)
    grads = gradients_of_outputs(problem)
    expected = layer(problem, True, grads)
    joined = [len(call["launches"]) for call in (layer.forward, layer.backward)]
    device("sm_80")
    for layer.seed in (0, 1, 2):
        for name, found in layer(problem, True, grads).items():
            assert torch.equal(found, expected[name]), f"{name}, seed {layer.seed}"
    for call, before, more in zip((layer.forward, layer.backward), joined, (2, 3), strict=True):
        assert len(call["launches"]) == before + more
        of_memory = [one for one in call["launches"] if "memory_" in one["kernel"]]
        assert {(one["blocks"], one["cluster"]) for one in of_memory} == {(8 * len(problem.image), 1)}
