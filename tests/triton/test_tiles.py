"""The tiles that the Triton kernels run with: what is left to autotuning, and that none is done unless asked for."""

from itertools import product

import pytest
import torch
from kvmem_problems import make_problem

pytestmark = pytest.mark.usefixtures("interpreter")

TUNABLE = ("kv_memory_read", "kv_memory_read_backward", "kv_memory_blocks_backward", "kv_memory_sums_backward")
FORWARD = ("kv_memory_write", "kv_memory_tables", "kv_memory_response")
KERNELS = (*TUNABLE, *FORWARD, "kv_memory_tables_backward", "kv_memory_write_backward")


def layers():
    """Of all kinds, with the sizes of a call."""
    from kvmem.triton import launch

    dtypes = (torch.float32, torch.bfloat16)
    for channels, slots, width, dtype in product((13, 64, 512), (1, 18, 40, 128), ("scalar", "vector"), dtypes):
        for size in ((1, 1), (5, 7), (64, 64)):
            settings = {"write_gate_width": width, "response_gate_width": width, "dtype": dtype}
            image, words, mask, *others = make_problem(1, channels, size, slots, 4, 8, **settings).operator_arguments()
            call = launch.prepare(image, words, mask, tuple(others[:12]), False, True)
            yield call.sizes, call.layer


def test_autotuning_tries_the_fixed_tiles_and_some_others_none_larger_than_the_image_asks_for():
    from kvmem.triton.chips import fixed_tiles
    from kvmem.triton.tiles import candidates

    for sizes, layer in layers():
        for kernel in TUNABLE:
            found = candidates(kernel, layer, sizes.N)
            assert found[0] == fixed_tiles(kernel, layer)
            assert len(found) == len(set(found)) <= 7, (layer, found)
            assert all(tiles.positions <= max(32, 2 * sizes.N) for tiles in found[1:]), (sizes, found)
            # A chunk is whole tiles.
            assert all(sizes.span % tiles.positions == 0 for tiles in found), (sizes, found)


def test_fixed_tiles_are_the_same_whenever_they_are_asked_for():
    from kvmem.triton.arguments import Chip
    from kvmem.triton.chips import fixed_tiles

    for sizes, layer in layers():
        for kernel, chip in product(KERNELS, Chip):
            tiles = fixed_tiles(kernel, layer._replace(CHIP=chip))
            assert tiles == fixed_tiles(kernel, layer._replace(CHIP=chip))
            assert tiles.warps in (1, 2, 4, 8)
            assert tiles.positions is None or sizes.span % tiles.positions == 0, (sizes, tiles)
            assert ("BLOCK_N" in tiles.settings()) == (tiles.positions is not None)


@pytest.mark.parametrize("asked", [None, "0", "1"])
def test_nothing_is_tuned_unless_the_environment_asks_for_it(monkeypatch, asked):
    """The interpreter doesn't tune: what is counted is who was asked to."""
    from kvmem.triton import tiles

    monkeypatch.delenv("KVMEM_TRITON_AUTOTUNE", raising=False)
    if asked is not None:
        monkeypatch.setenv("KVMEM_TRITON_AUTOTUNE", asked)
    tuned = []

    def record(kernel):
        tuned.append(kernel.fn.__name__)
        return {(1,): lambda *arguments: None}

    monkeypatch.setattr(tiles, "tuned", record)
    make_problem(1, 8, (2, 2), 3, 4, 8).run("triton")
    assert tuned == (["kv_memory_read"] if asked == "1" else [])
