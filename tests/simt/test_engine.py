"""The machine that runs kernels on the CPU: threads that meet, memory that is watched, bugs that are found."""

import re

import numpy as np
import pytest
from simt_kernels import SEEDS, numbers, outcomes, run

REVERSALS = {"reverse": 128, "reverse_in_group": 64, "reverse_in_warp": 32}


@pytest.mark.parametrize("name", REVERSALS)
def test_a_barrier_orders_and_its_absence_is_seen(kernels, name):
    """Threads that read what others wrote: right under every seed with the barrier, wrong under some without."""
    values = numbers(2, 128)
    expected = values.reshape(-1, REVERSALS[name])[:, ::-1].reshape(-1)
    kernel = getattr(kernels, name)
    assert all(outcomes(kernel, values, expected, choice=1, blocks=2, threads=128))
    assert not all(outcomes(kernel, values, expected, choice=0, blocks=2, threads=128))


def test_what_nobody_wrote_is_nan(kernels):
    """Without the barrier, numbers not written yet are read as NaN, not as another block's or launch's."""
    found = [run(kernels.reverse, numbers(128), choice=0, threads=128, seed=seed) for seed in SEEDS]
    assert np.isnan(found).any()


def test_asynchronous_copies(kernels):
    values = numbers(128)
    expected = np.repeat(values[::4], 4)
    assert all(outcomes(kernels.copy, values, expected, choice=1, threads=128))
    assert all(outcomes(kernels.copy, values, np.zeros(128), choice=5, threads=128))


@pytest.mark.parametrize("choice", [0, 3, 4], ids=["not waited for", "no barrier", "group left open"])
def test_a_copy_read_too_early_is_seen(kernels, choice):
    values = numbers(128)
    expected = np.repeat(values[::4], 4)
    assert not all(outcomes(kernels.copy, values, expected, choice=choice, threads=128))
    if choice != 3:
        assert np.isnan(run(kernels.copy, values, choice=choice, threads=128)).any()


def test_a_copy_never_waited_for_is_an_error(kernels):
    with pytest.raises(RuntimeError, match=r"thread \d+: ends without having waited for its asynchronous copies"):
        run(kernels.copy, numbers(128), choice=2, threads=128)


@pytest.mark.parametrize("index, element", [(64, 64), (-1, -1), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("name", ["read_shared", "read_global", "write_global"])
def test_an_access_out_of_bounds_names_the_place(kernels, name, index, element):
    """The last element is fine, the one after it and the one before the first are errors."""
    values = numbers(64)
    run(getattr(kernels, name), values, choice=63, threads=64)
    memory = "shared memory of block 0" if name == "read_shared" else "global memory"
    message = rf"kernel .*{name}: block 0, thread \d+: access of 4 bytes of {memory} outside its view: "
    with pytest.raises(RuntimeError, match=message + rf"byte {4 * element} of 256 \(element {element} of 64\)"):
        run(getattr(kernels, name), values, choice=index, threads=64)


def test_shared_memory_beyond_the_launch_is_an_error(kernels):
    run(kernels.reserve, numbers(32), choice=256, shared_bytes=1024)
    with pytest.raises(RuntimeError, match="shared memory from byte 0 to 1028, aligned to 4: the block has 1024"):
        run(kernels.reserve, numbers(32), choice=257, shared_bytes=1024)


def test_accesses_of_16_bytes_are_aligned_and_within_bounds(kernels):
    values = np.zeros(68, np.float32)
    values = values[(-values.ctypes.data % 16) // 4 :][:64]
    values[:] = numbers(64)
    np.testing.assert_array_equal(run(kernels.read_global16, values, 32, choice=60), np.full(32, values[60]))
    with pytest.raises(RuntimeError, match="not aligned to 16"):
        run(kernels.read_global16, values, 32, choice=2)
    with pytest.raises(RuntimeError, match="access of 16 bytes of global memory outside its view: byte 256 of 256"):
        run(kernels.read_global16, values, 32, choice=64)
    with pytest.raises(RuntimeError, match=r"access of 16 bytes of shared memory of block 0 .* not aligned to 16"):
        run(kernels.load_misaligned, values, choice=1)


def test_a_null_view_is_not_read(kernels):
    with pytest.raises(RuntimeError, match="through a null view"):
        run(kernels.read_null, numbers(32))


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_peer_is_in_the_cluster(kernels, rank):
    with pytest.raises(RuntimeError, match=f"peer {rank} of a cluster of 2"):
        run(kernels.name_peer, numbers(64), choice=rank, blocks=2, cluster=2)


DIVERGENCES = {
    "a warp misses the block's barrier": "deadlock.*threads 0 to 31: done.*threads 32 to 127: in block_barrier",
    "lanes miss the warp's barrier": "lanes of its warp are in warp_barrier|ended before warp_barrier",
    "lanes end before a shuffle": "lanes of its warp are in shuffle|ended before shuffle",
    "lanes are in another operation": "where other lanes of its warp are elsewhere",
    "a block misses the cluster's barrier": "deadlock.*in cluster_wait.*block 1, threads 0 to 31: in block_barrier",
    "no cluster_wait": "ends between cluster_arrive and cluster_wait",
    "groups of different sizes": r"group_barrier 1 for \d+ threads, while others wait in it for \d+",
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_threads_that_do_not_meet_are_an_error(kernels, name, seed):
    """Never a hang, under any seed; the message says who waits where."""
    choice = list(DIVERGENCES).index(name)
    with pytest.raises(RuntimeError) as caught:
        run(kernels.diverge, numbers(256), choice=choice, blocks=2, threads=128, cluster=2, seed=seed)
    assert re.search(DIVERGENCES[name], str(caught.value), re.DOTALL), caught.value


def test_after_an_error_the_next_launch_is_sound(kernels):
    values = numbers(2, 128)
    for seed in SEEDS:
        with pytest.raises(RuntimeError):
            run(kernels.diverge, values, choice=3, blocks=2, threads=128, cluster=2, seed=seed)
        found = run(kernels.reverse, values, choice=1, blocks=2, threads=128, seed=seed)
        np.testing.assert_array_equal(found, values[:, ::-1].reshape(-1))


def test_the_seed_draws_the_order_of_threads_and_clusters(kernels):
    """The same seed gives the same order, another one another; seed 0 the natural one."""
    launch = {"count": 257, "blocks": 4, "threads": 64}
    turns = [run(kernels.take_turns, numbers(256), seed=seed, **launch)[1:] for seed in (0, 1, 2, 1)]
    np.testing.assert_array_equal(turns[0], np.arange(1, 257))
    np.testing.assert_array_equal(turns[1], turns[3])
    assert not np.array_equal(turns[1], turns[2])
    for order in turns:
        np.testing.assert_array_equal(np.sort(order), np.arange(1, 257))
    lanes, blocks = turns[1].reshape(4, 2, 32), turns[1].reshape(4, 64).min(1)
    assert (np.diff(lanes) < 0).any() and (np.diff(blocks) < 0).any()


def test_thousands_of_threads_and_collectives(kernels):
    """Sums by shuffles, in a cluster of 4096 threads, 150 rounds of 5: some three million meetings."""
    values = numbers(16, 256)
    out = run(kernels.sum_often, values, choice=150, blocks=16, threads=256, cluster=16, seed=1)
    np.testing.assert_allclose(out, np.repeat(values.reshape(-1, 32).sum(1), 32), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_lie_over_the_lanes_as_the_tensor_cores_want_them(kernels, transposed):
    """Lane l holds, of row l / 4 of every matrix (column, if transposed), elements 2 (l % 4) and the next."""
    rows = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    matrices = rows.swapaxes(1, 2) if transposed else rows
    fragments = np.ascontiguousarray(matrices.reshape(4, 32, 2).swapaxes(0, 1))
    found = run(kernels.load_matrices, rows.view(np.float32), choice=int(transposed), seed=1)
    np.testing.assert_array_equal(found.view(np.uint16), fragments.reshape(-1))
    found = run(kernels.store_matrices, fragments.view(np.float32), choice=int(transposed), seed=1)
    np.testing.assert_array_equal(found.view(np.uint16), rows.reshape(-1))
    if transposed:
        found = run(kernels.store_matrices, fragments.view(np.float32), choice=4, seed=1).view(np.uint16)
        np.testing.assert_array_equal(found, np.concatenate([rows[:2].reshape(-1), np.zeros(128, np.uint16)]))


@pytest.mark.parametrize("name", ["load_matrices", "store_matrices"])
def test_matrices_without_a_barrier_are_seen(kernels, name):
    """Rows that other lanes write or read: the instruction itself orders nothing."""
    values = numbers(128)
    right = run(getattr(kernels, name), values, choice=0)
    assert all(outcomes(getattr(kernels, name), values, right, choice=0))
    assert not any(outcomes(getattr(kernels, name), values, right, choice=2))


@pytest.mark.parametrize("name, bits", [("multiply_bfloat16", 8), ("multiply_float16", 11), ("multiply_tf32", 11)])
def test_products_of_matrices(kernels, name, bits):
    """Of numbers that the type holds exactly: the sum, rounded toward zero."""
    inner = 8 if name == "multiply_tf32" else 16
    rng = np.random.default_rng(0)

    def draw(*shape):
        limit = 2 ** (bits - 1)
        return (rng.integers(-limit, limit, shape) / limit).astype(np.float32)

    left, right, total = draw(16, inner), draw(inner, 8), numbers(16, 8)
    found = run(getattr(kernels, name), np.concatenate([x.reshape(-1) for x in (left, right, total)]), 128)
    exact = (left.astype(np.float64) @ right + total).reshape(-1)
    error = np.abs(found - exact)
    assert (np.abs(found) <= np.abs(exact)).all()
    assert (error <= np.spacing(np.abs(found))).all()
    assert (error > 0).any()


def test_tf32_products_do_not_see_the_last_bits(kernels):
    """As in the hardware: numbers that were not rounded before are cut off."""
    values = np.zeros(128 + 64 + 128, np.float32)
    values[0] = values[128] = 1 + 2**-10 + 2**-11
    found = run(kernels.multiply_tf32, values, 128)
    assert found[0] == np.float32((1 + 2**-10) ** 2)
    assert not found[1:].any()


def test_conversions_round_to_nearest_even(kernels):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(6144).astype(np.float32) * 2.0 ** rng.integers(-30, 20, 6144).astype(np.float32)
    ties = np.float32(1) + np.arange(32, dtype=np.float32) * np.float32(2**-12)
    special = [0.0, -0.0, np.inf, -np.inf, 65504, 65519.9, 65520, 2**-24, 2**-25, 3 * 2**-26, 1e-40, 3.4e38]
    values = np.concatenate([values, ties, -ties, np.resize(np.float32(special), 64)])
    launch = {"blocks": values.size // 32}
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(run(kernels.convert, values, choice=1, **launch), expected)

    bits = values.view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) & np.uint64(0xFFFF0000)
    expected = nearest.astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(run(kernels.convert, values, choice=0, **launch), expected)
    assert np.isnan(run(kernels.convert, np.full(32, np.nan, np.float32), choice=0)).all()
    assert np.isnan(run(kernels.convert, np.full(32, np.nan, np.float32), choice=1)).all()


def test_every_float16_becomes_the_same_float32(kernels):
    halves = np.arange(2**16, dtype=np.uint32)
    found = run(kernels.convert, halves.view(np.float32), choice=5, blocks=64, threads=1024)
    np.testing.assert_array_equal(found, halves.astype(np.uint16).view(np.float16).astype(np.float32))


def test_a_float32_in_two_of_tf32(kernels):
    """The first has 10 bits of fraction, and what of the second tensor cores see leaves 2^-21 at most."""
    values = numbers(1024)
    high, low = (run(kernels.convert, values, choice=choice, blocks=32) for choice in (2, 6))
    assert not (high.view(np.uint32) & 0x1FFF).any()
    assert (np.abs(high - values) <= np.abs(values) * 2.0**-11).all()
    np.testing.assert_array_equal(high.astype(np.float64) + low, values)
    seen = (low.view(np.uint32) & 0xFFFFE000).view(np.float32)
    assert (np.abs(high.astype(np.float64) + seen - values) <= np.abs(values) * 2.0**-21).all()


def test_neither_nan_nor_infinity_is_lost_by_splitting(kernels):
    """Whatever the bits of a NaN, one of the two is one, to tensor cores too, which see the first 19 bits."""
    bits = np.uint32([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF801000, 0x7FFFF000, 0x7F800000, 0xFF800000])
    values = np.resize(bits, 32).view(np.float32)
    high, low = (run(kernels.convert, values, choice=choice).view(np.uint32) & 0xFFFFE000 for choice in (2, 6))
    with np.errstate(invalid="ignore"):
        sums = high.view(np.float32) * np.float32(0.5) + low.view(np.float32)
    assert not np.isfinite(sums).any()
    assert np.isnan(sums[:6]).all()


def test_exp2_and_log2_err_as_the_device_does(kernels):
    """By up to 2^-22 and not by less than the last place: tests must not count on more."""
    values = np.linspace(-120, 120, 4096, dtype=np.float32)
    exact = np.exp2(values.astype(np.float64))
    error = np.abs(run(kernels.convert, values, choice=3, blocks=128) / exact - 1)
    assert 2.0**-24 < error.max() < 2.0**-22
    positive = exact.astype(np.float32)
    found = run(kernels.convert, positive, choice=4, blocks=128)
    np.testing.assert_allclose(found, np.log2(positive.astype(np.float64)), rtol=2.0**-22, atol=2.0**-22)
    special = np.resize(np.float32([-np.inf, np.inf, np.nan, -127, 0, 1e-39, -1, 1]), 32)
    np.testing.assert_array_equal(run(kernels.convert, special, choice=3)[:8], [0, np.inf, np.nan, 0, 1, 1, 0.5, 2])
    found = run(kernels.convert, special, choice=4)[:8]
    np.testing.assert_array_equal(found, [np.nan, np.inf, np.nan, np.nan, -np.inf, -np.inf, np.nan, 0])


def test_launches_that_a_device_would_refuse(kernels):
    values = numbers(64)
    with pytest.raises(RuntimeError, match="33 threads a block"):
        run(kernels.reverse, values, threads=33)
    with pytest.raises(RuntimeError, match="3 blocks in clusters of 2"):
        run(kernels.reverse, values, blocks=3, cluster=2)
    with pytest.raises(RuntimeError, match="232449 bytes of shared memory"):
        run(kernels.reverse, values, shared_bytes=232449)
    try:
        kernels.set_device(80, 166912, 8)
        assert kernels.clusters_that_fit(2, 1024) == 0
        assert kernels.clusters_that_fit(1, 166912) == 132
        with pytest.raises(RuntimeError, match=r"clusters of 2 .* compute capability 80"):
            run(kernels.exchange, values, choice=3, blocks=2, cluster=2)
        with pytest.raises(RuntimeError, match="stores matrices: the device has compute capability below"):
            run(kernels.store_matrices, numbers(128))
        kernels.set_device(90, 232448, 8)
        assert kernels.clusters_that_fit(8, 232448) == 132 // 8
        # Two blocks share a multiprocessor where their shared memory has room.
        assert kernels.clusters_that_fit(8, 1024) == 2 * (132 // 8)
        assert kernels.clusters_that_fit(16, 1024) == 0
    finally:
        kernels.set_device(90, 232448, 16)
