"""The tiles that the Triton kernels run with: what is left to autotuning, and that none is done unless asked for."""

from itertools import product

import pytest
from kvmem_problems import make_problem

pytestmark = pytest.mark.usefixtures("interpreter")

TUNABLE = ("kv_memory_read", "kv_memory_read_backward")
KERNELS = (*TUNABLE, "kv_memory_write", "kv_memory_tables", "kv_memory_response", "kv_memory_write_backward")


def layers():
    """Of all kinds, with the sizes of a call."""
    from kvmem.triton import launch

    for channels, slots, width in product((13, 64, 512), (1, 18, 128), ("scalar", "vector")):
        for size in ((1, 1), (5, 7), (64, 64)):
            gates = {"write_gate_width": width, "response_gate_width": width}
            image, words, mask, *others = make_problem(1, channels, size, slots, 4, 8, **gates).operator_arguments()
            call = launch.prepare(image, words, mask, tuple(others[:12]), False, True)
            yield call.sizes, call.layer


def test_autotuning_tries_some_tiles_for_every_layer_and_none_larger_than_the_image_asks_for():
    from kvmem.triton.tiles import CONFIGURATIONS, prune

    for sizes, layer in layers():
        kept = prune(CONFIGURATIONS, {"sizes": sizes, "L": layer})
        assert 1 <= len(kept) <= len(CONFIGURATIONS), layer
        assert all(found.kwargs["BLOCK_N"] <= max(32, 2 * sizes.N) for found in kept), (sizes, kept)
        # A chunk is whole tiles.
        assert all(sizes.span % found.kwargs["BLOCK_N"] == 0 for found in kept), (sizes, kept)


def test_fixed_tiles_are_the_same_whenever_they_are_asked_for():
    from kvmem.triton.tiles import fixed_tiles

    for sizes, layer in layers():
        for kernel in KERNELS:
            tiles = fixed_tiles(kernel, layer)
            assert tiles == fixed_tiles(kernel, layer)
            assert tiles["num_warps"] in (1, 2, 4, 8, 16)
            assert sizes.span % tiles.get("BLOCK_N", 1) == 0, (sizes, tiles)


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
