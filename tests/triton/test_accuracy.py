"""The Triton kernels, run by Triton's interpreter, against the yardstick of tests/support/kvmem_accuracy.py.

These are the kernels' own lines, but for two places in kvmem/triton/arithmetic.py: the interpreter cuts float32 off
where it should round to bfloat16, so `rounded` rounds before; and it multiplies matrices of bfloat16 as the whole
numbers that their bits make, so `product` gives it float32. So everything here runs in bfloat16 too.

A call takes the interpreter up to a second: the variants of a test join masks, formats and options.
"""

import pytest
import torch
from kvmem_accuracy import DTYPES, assert_accurate
from kvmem_smooth import make_smooth_problem

# Branch; batch, channels, (height, width), slots, word channels, memory channels.
SHAPES = {
    "odd N": ("tuned", (2, 16, (5, 7), 6, 12, 32)),
    "N=1": ("tuned", (3, 16, (1, 1), 5, 8, 16)),
    "T=1": ("tuned", (2, 16, (4, 6), 1, 8, 16)),
    "C=13": ("tuned", (2, 13, (6, 5), 7, 9, 11)),
    "T=32": ("tuned", (1, 64, (5, 8), 32, 12, 16)),
    "C=64, two chunks": ("tuned", (1, 64, (9, 16), 18, 16, 32)),
    "T=33": ("general", (2, 24, (5, 8), 33, 12, 16)),
    "T=64": ("general", (1, 16, (5, 7), 64, 8, 16)),
    "T=128": ("general", (1, 32, (7, 9), 128, 8, 16)),
    "C=65": ("general", (1, 65, (5, 7), 6, 12, 16)),
    "C=200": ("general", (1, 200, (3, 5), 40, 8, 16)),
}
MASKS_AND_FORMATS = [
    {"mask": "partial", "channels_last": False},
    {"mask": "none", "channels_last": True},
    {"mask": "one image masked", "channels_last": False},
    {"mask": "partial", "channels_last": True},
    {"mask": "all masked", "channels_last": True},
]
OPTIONS = [
    {"write_gate": "sigmoid", "activation": "relu", "detach_mean": True},
    {"write_gate": "linear", "activation": "relu", "detach_mean": False},
    {"write_gate": "sigmoid", "activation": "identity", "detach_mean": False},
    {"write_gate": "linear", "activation": "identity", "detach_mean": True},
]
WIDTHS = [
    {"write_gate_width": write, "response_gate_width": response}
    for write in ("scalar", "vector")
    for response in ("scalar", "vector")
]
# How many of the variants a test takes, one draw of each.
VARIANTS = {torch.float32: 3, torch.bfloat16: 2, torch.float16: 2}
NEIGHBOURS = 7


def branch_for(branch, dtype, response_gate_width):
    """Vector gates of float32 are never tuned."""
    return "general" if dtype == torch.float32 and response_gate_width == "vector" else branch


def some(variants, first, dtype):
    """As many as the dtype asks for, beginning with another one in every test, so that all of them have their turn."""
    return [variants[(first + i) % len(variants)] for i in range(VARIANTS[dtype])]


@pytest.fixture
def check(with_branch):
    """A function that asserts that a branch is accurate on problems of a shape."""

    def run(branch, shape, dtype, variants):
        settings = {"dtype": dtype, "variants": variants, "draws": 1, "neighbours": NEIGHBOURS}
        assert_accurate(make_smooth_problem, *shape, **settings, backend=with_branch(branch))

    return run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_over_masks_and_formats(check, name, dtype):
    branch, shape = SHAPES[name]
    check(branch, shape, dtype, some(MASKS_AND_FORMATS, list(SHAPES).index(name), dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", WIDTHS, ids=lambda widths: "-".join(widths.values()))
@pytest.mark.parametrize("branch, slots", [("tuned", 6), ("general", 40)])
def test_options(check, branch, slots, widths, dtype):
    """Every pair of two options' values, for all widths of the gates."""
    variants = [
        {**options, **widths, "mask": mask, "channels_last": mask == "none"}
        for options, mask in zip(OPTIONS, ("partial", "none", "one image masked", "none"), strict=True)
    ]
    branch = branch_for(branch, dtype, widths["response_gate_width"])
    check(branch, (2, 16, (4, 8), slots, 12, 32), dtype, some(variants, WIDTHS.index(widths), dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("branch, channels", [("tuned", 64), ("general", 100)])
def test_vector_gates_of_many_channels(check, branch, channels, dtype):
    """One block of channels, or pairs of blocks."""
    widths = {"write_gate_width": "vector", "response_gate_width": "vector"}
    variants = [{"mask": "partial", "channels_last": channels_last, **widths} for channels_last in (False, True)]
    check(branch_for(branch, dtype, "vector"), (1, channels, (5, 7), 6, 12, 70), dtype, variants)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_as_many_channels_and_slots_as_there_may_be(check, dtype):
    check("general", (1, 512, (3, 5), 128, 8, 16), dtype, [{"mask": "partial"}])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("branch, slots", [("tuned", 6), ("general", 40)])
def test_chunks_of_several_tiles(check, launches, branch, slots, dtype):
    """Three images of two chunks of two tiles of 128 positions, the last one not full."""
    check(branch, (3, 16, (17, 23), slots, 8, 16), dtype, [{"mask": "partial"}])
    over_positions = ("kv_memory_read", "kv_memory_read_backward", "kv_memory_blocks_backward")
    assert {launch.programs for launch in launches if launch.name in over_positions} == {3 * 2}


def test_chunks_of_vector_gates(check, launches):
    """Three chunks of an image; the sums have one, for every pair of the three blocks of channels."""
    widths = {"write_gate_width": "vector", "response_gate_width": "vector"}
    check("general", (1, 72, (15, 20), 6, 8, 16), torch.float32, [{"mask": "partial", **widths}])
    programs = {launch.name: launch.programs for launch in launches}
    assert programs["kv_memory_blocks_backward"] == 3
    assert programs["kv_memory_sums_backward"] == 3 * 3


def test_float32_as_tensor_cores_compute_it(check, monkeypatch):
    """Their sums are cut off, which the interpreter's aren't."""
    from triton.runtime.interpreter import InterpreterBuilder
    from triton_tensor_cores import create_dot

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    variants = [{"mask": mask, "channels_last": mask != "none"} for mask in ("none", "partial")]
    check("tuned", (1, 64, (9, 16), 18, 32, 128), torch.float32, variants)
