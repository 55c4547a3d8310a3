"""What blocks of a cluster, and launches, leave to one another on the machine that runs kernels on the CPU."""

import re

import numpy as np
import pytest
from simt_kernels import SEEDS, numbers, outcomes, run


@pytest.mark.parametrize("cluster", [1, 2, 8])
@pytest.mark.parametrize("choice", [3, 6])
def test_blocks_of_a_cluster_see_each_others_shared_memory(kernels, cluster, choice):
    values = numbers(16, 64)
    expected = np.roll(values.reshape(-1, cluster, 64), -1, 1).reshape(-1)
    launch = {"choice": choice, "blocks": 16, "threads": 64, "cluster": cluster}
    assert all(outcomes(kernels.exchange, values, expected, **launch))
    np.testing.assert_array_equal(run(kernels.exchange, values, **launch), expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "choice, message",
    [
        (2, "before a cluster barrier: it may not have started"),
        (1, "ends without a cluster barrier|which has ended|without a cluster barrier that publishes"),
    ],
    ids=["before its start", "after its end"],
)
def test_a_blocks_shared_memory_is_used_outside_its_life(kernels, choice, message, seed):
    """An error under every seed, whether or not the other block happens to be there."""
    with pytest.raises(RuntimeError, match=message):
        run(kernels.exchange, numbers(4, 64), choice=choice, blocks=4, threads=64, cluster=4, seed=seed)


@pytest.mark.parametrize("cluster", [1, 2, 8])
@pytest.mark.parametrize("choice", [0, 8], ids=["shared memory", "global memory"])
def test_a_cluster_barrier_publishes_what_was_written(kernels, choice, cluster):
    values = numbers(16, 64)
    expected = np.roll(values.reshape(-1, cluster, 64), -1, 1).reshape(-1)
    launch = {"blocks": 16, "threads": 64, "cluster": cluster}
    assert all(outcomes(kernels.push, values, expected, choice=choice, **launch))
    if cluster == 1:
        assert all(outcomes(kernels.push, values, expected, choice=choice + 1, **launch))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("choice", [1, 9], ids=["shared memory", "global memory"])
def test_a_relaxed_arrival_publishes_nothing(kernels, choice, seed):
    """An error under every seed, though the numbers are there on this machine."""
    with pytest.raises(RuntimeError, match=r"uses what thread .* wrote, without a cluster barrier that publishes it"):
        run(kernels.push, numbers(4, 64), choice=choice, blocks=4, threads=64, cluster=4, seed=seed)


@pytest.mark.parametrize("cluster", [1, 2, 8])
def test_messages_and_the_bytes_that_are_waited_for(kernels, cluster):
    values = numbers(16, 64)
    expected = np.roll(values.reshape(-1, cluster, 64), -1, 1)[..., ::-1].reshape(-1)
    launch = {"blocks": 16, "threads": 64, "cluster": cluster}
    assert all(outcomes(kernels.post, values, expected, choice=0, **launch))
    # A block by itself sends to every place what stands there.
    assert cluster == 1 or not all(outcomes(kernels.post, values, expected, choice=4, **launch)), "read unwaited"


def test_a_message_into_memory_that_is_still_read_is_seen(kernels):
    values = numbers(16, 64)
    launch = {"choice": 7, "blocks": 16, "threads": 64, "cluster": 4}
    assert not all(outcomes(kernels.post, values, values[:, ::-1].reshape(-1), **launch))


MESSAGES = {
    1: "sends block . more than the 252 bytes that it expects",
    2: "deadlock.*in wait_for_bytes",
    3: "ends with .* bytes come, not waited for",
    5: "expect_bytes after cluster_arrive|which expects nothing at that counter",
    6: "before a cluster barrier: it may not have started",
    8: "which expects nothing at that counter",
    9: "expect_bytes twice at one counter",
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("choice", MESSAGES)
def test_messages_that_nobody_counts_right_are_an_error(kernels, choice, seed):
    with pytest.raises(RuntimeError) as caught:
        run(kernels.post, numbers(4, 64), choice=choice, blocks=4, threads=64, cluster=4, seed=seed)
    assert re.search(MESSAGES[choice], str(caught.value), re.DOTALL), caught.value


def handed_over(kernels, **launch) -> list[bool]:
    """Whether the second of two launches ends with what it should make of the first one's results, for every seed."""
    values = numbers(256)
    results = []
    for seed in (0, *SEEDS):
        out = np.full(512, np.nan, np.float32)
        out[:256] = 0
        kernels.hand_over(values, out, seed=seed, **launch)
        results.append(np.array_equal(out[:256], values + 1))
    return results


@pytest.mark.parametrize("choice", [1, 3], ids=["all wait", "some wait, and a barrier holds the others"])
def test_a_launch_may_begin_early_where_it_waits(kernels, choice):
    assert all(handed_over(kernels, choice=choice))


@pytest.mark.parametrize("choice", [0, 2, 4], ids=["no wait", "reads before it waits", "writes before it waits"])
def test_a_launch_that_begins_early_and_does_not_wait_is_seen(kernels, choice):
    """Under every seed; launched as usual it would be right but for its early writes, which then are none."""
    assert not any(handed_over(kernels, choice=choice))
    assert all(handed_over(kernels, choice=choice, early=False))


def test_what_is_stored_past_the_caches_is_not_used_again(kernels):
    values = numbers(256)
    np.testing.assert_array_equal(run(kernels.stream, values, blocks=2), values)
    with pytest.raises(RuntimeError, match="uses what it has stored past the caches"):
        run(kernels.stream, values, choice=1, blocks=2)
    with pytest.raises(RuntimeError, match="store16_streaming to shared memory"):
        run(kernels.stream, values, choice=2, blocks=2)
