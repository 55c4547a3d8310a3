"""The machine code of the CUDA kernels, read from the built library: registers, memory accesses, matrix units.

A kernel that spills, or whose matrix products went to scalar units, is as right as before and several times slower: no
other test on a machine without a GPU would show it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from machine_code import TYPES, Kernel, find_tool, identify, read_kernels

import kvmem

ARCHITECTURES = ("sm_80", "sm_90")
# How the kernels' names begin.
TUNED = ("cluster_forward", "cluster_backward")
PIXEL_PASSES = (*TUNED, "general_forward", "general_backward")
# What a warp may issue for 16 positions at up to 23 slots, where no attention is asked for: in both formats.
BUDGETS = {
    ("cluster_forward", "bfloat16"): 450,
    ("cluster_forward", "float16"): 450,
    ("cluster_forward", "float32"): 1250,
    ("cluster_backward", "bfloat16"): 950,
    ("cluster_backward", "float16"): 950,
    ("cluster_backward", "float32"): 3000,
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def kernels(request: pytest.FixtureRequest) -> list[Kernel]:
    if not kvmem.backends()["cpu"].available or not torch.ops.kvmem.cuda_architectures():
        pytest.skip("kvmem is built without CUDA")
    if request.param not in torch.ops.kvmem.cuda_architectures().split(","):
        pytest.skip(f"kvmem is built without {request.param}")
    for tool in ("cuobjdump", "nvdisasm"):
        if find_tool(tool) is None:
            pytest.skip(f"no {tool} on the PATH, in /usr/local/cuda or in a triton package")
    found = read_kernels(Path(kvmem.__file__).with_name("_kernels.so"), request.param)
    # Where there are no clusters of blocks, the kernels for them are never run.
    return found if request.param != "sm_80" else [kernel for kernel in found if not kernel.name.startswith(TUNED)]


def named(
    kernels: list[Kernel], names: tuple[str, ...], types: tuple[str, ...] = tuple(TYPES.values())
) -> list[Kernel]:
    found = [kernel for kernel in kernels if kernel.name.startswith(names) and kernel.type in types]
    assert found
    return found


def test_every_pixel_pass_is_there_for_every_type(kernels: list[Kernel], request: pytest.FixtureRequest) -> None:
    passes = PIXEL_PASSES if "sm_90" in request.node.name else tuple(set(PIXEL_PASSES) - set(TUNED))
    for name in passes:
        assert {kernel.type for kernel in named(kernels, (name,))} == set(TYPES.values()), name


def test_nothing_lies_in_local_memory(kernels: list[Kernel]) -> None:
    """No stack frame, no spilled register, no array that is indexed at run time."""
    assert kernels
    bad = [f"{k}: stack {k.stack}, local {k.local}" for k in kernels if k.stack or k.local or k.has(r"LDL|STL")]
    assert not bad, "\n".join(bad)


def test_budgets_of_instructions(kernels: list[Kernel], request: pytest.FixtureRequest) -> None:
    """The loops over positions are bound by the instructions that they issue, whatever the type of the weights."""
    if "sm_90" not in request.node.name:
        pytest.skip("the cluster kernels are for sm_90")
    found = {}
    for kernel in named(kernels, TUNED):
        if kernel.variant and "attention" not in kernel.variant:
            found[kernel.name.removesuffix("_kernel"), kernel.type, kernel.variant] = len(kernel.main_loop())
    wide = [key for key in found if "float32 weights" in key[2]]
    assert {key[:2] for key in wide} == {("cluster_forward", "bfloat16"), ("cluster_forward", "float16")}
    assert (len(found), len(wide)) == (2 * len(BUDGETS) + 4, 4)
    over = {key: (count, BUDGETS[key[:2]]) for key, count in found.items() if not 100 < count <= BUDGETS[key[:2]]}
    assert not over, over


def test_blocks_send_each_other_numbers_without_fences(kernels: list[Kernel], request: pytest.FixtureRequest) -> None:
    """One fence of the whole GPU a kernel, where global memory is published; what is sent needs none."""
    if "sm_90" not in request.node.name:
        pytest.skip("the cluster kernels are for sm_90")
    for kernel in named(kernels, TUNED):
        assert sum(instruction.name == "MEMBAR.ALL.GPU" for instruction in kernel.code) == 1, kernel
        assert kernel.has("STAS"), kernel


def test_the_second_launch_of_backward_begins_early_and_waits(kernels: list[Kernel], request) -> None:
    """From 9.0 on: before that nothing does either."""
    there = "sm_90" in request.node.name
    for kernel in kernels:
        assert kernel.has("ACQBULK") == (there and kernel.name == "multiply_products"), kernel
        assert kernel.has("PREEXIT") == (there and kernel.name == "cluster_backward_kernel"), kernel


def test_the_products_run_on_the_matrix_units_in_16_bit_types(kernels: list[Kernel]) -> None:
    slow = [str(k) for k in named(kernels, PIXEL_PASSES, ("bfloat16", "float16")) if not k.has(r"HMMA|HGMMA")]
    assert not slow, slow


def test_the_pixel_passes_read_and_write_128_bits_at_a_time(kernels: list[Kernel]) -> None:
    """Straight into shared memory (LDGSTS) or through registers (LDG); the image goes out by STG."""
    reads, writes = r"(LDG|LDGSTS)\.E.*\.128", r"STG\.E.*\.128"
    narrow = [str(k) for k in named(kernels, PIXEL_PASSES) if not (k.has(reads) and k.has(writes))]
    assert not narrow, narrow


@pytest.mark.parametrize(
    "mangled, expected",
    [
        (
            "_ZN5kvmem4cuda15cluster_forwardI13__nv_bfloat16EEvNS0_17ForwardParametersIT_EE",
            ("cluster_forward", "bfloat16"),
        ),
        ("_ZN5kvmem4cuda16general_backwardI6__halfLi2EEEvNS0_1PE", ("general_backward", "float16")),
        ("_ZN5kvmem4cuda14memory_forwardIfEEvNS0_1PE", ("memory_forward", "float32")),
        ("_ZN5kvmem4cuda8mean_sumIfLb1EEEvNS0_1PE", ("mean_sum", "float32")),
        ("_ZN5kvmem4cuda4stepENS0_1PE", ("step", "")),
    ],
)
def test_kernels_are_told_apart_by_their_mangled_names(mangled: str, expected: tuple[str, str]) -> None:
    assert identify(mangled) == expected
