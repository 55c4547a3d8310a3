"""The tester's test: a fault in a copy of the PTX is found in the very configurations that are proven."""

from __future__ import annotations

import pytest
from configurations import GIVEN_CLUSTER, SMALL, Call, ring
from faults import (
    BLOCK_BARRIER,
    GROUP_BARRIER,
    WARP_BARRIER,
    cluster_barriers,
    expects_more_bytes,
    lines,
    waits_for_bytes,
    waits_late,
    without,
)
from proofs import launch_of
from prover import Verdict, prove
from ptx_entries import Entry

pytestmark = pytest.mark.proof

FORWARD, BACKWARD = "cluster_forward_kernel", "cluster_backward_kernel"
ONE_TILE, TWO_BLOCKS = Call("forward"), Call("forward", N=136, largest_cluster=2)


def judged(entries: dict[str, Entry], kernel: str, call: Call, fault) -> Verdict:
    launch = launch_of(kernel, call.arguments())
    entry = entries[launch.kernel]
    broken = fault(entry)
    assert broken.text != entry.text
    return prove(broken, launch, 900)


def test_a_group_barrier_removed(entries: dict[str, Entry], prover: None) -> None:
    """The one between what warps write of a tile and what others store of it."""
    verdict = judged(entries, FORWARD, ONE_TILE, lambda entry: without(entry, lines(entry, GROUP_BARRIER)[1]))
    assert verdict.result == "potential_race", verdict.reasons


def test_a_group_barrier_that_only_a_reused_slot_needs(entries: dict[str, Entry], prover: None) -> None:
    """The one after the wait for a tile that is read a second time: the ring's configuration reaches that."""
    call = ring("forward", "bfloat16", channels_last=True)
    verdict = judged(entries, FORWARD, call, lambda entry: without(entry, lines(entry, GROUP_BARRIER)[0]))
    assert verdict.result == "potential_race", verdict.reasons


@pytest.mark.core
def test_a_block_barrier_removed(entries: dict[str, Entry], prover: None) -> None:
    verdict = judged(
        entries, "general_forward_tiles", SMALL, lambda entry: without(entry, lines(entry, BLOCK_BARRIER)[1])
    )
    assert verdict.result == "potential_race", verdict.reasons


def test_a_cluster_barrier_removed(entries: dict[str, Entry], prover: None) -> None:
    """The one before what is sent: a counter of a block that may not have started."""
    verdict = judged(entries, FORWARD, TWO_BLOCKS, lambda entry: without(entry, *cluster_barriers(entry)[0]))
    assert verdict.result == "not_wellsynced", verdict.reasons
    assert "uninitialized barrier" in verdict.reasons[0]


@pytest.mark.parametrize("number", [0, 1], ids=["mean", "keys and values"])
def test_a_wait_for_what_is_sent_removed(entries: dict[str, Entry], prover: None, number: int) -> None:
    verdict = judged(entries, FORWARD, TWO_BLOCKS, lambda entry: without(entry, *waits_for_bytes(entry)[number]))
    assert verdict.result == "potential_race", verdict.reasons


def test_more_bytes_expected_than_are_sent(entries: dict[str, Entry], prover: None) -> None:
    verdict = judged(entries, FORWARD, TWO_BLOCKS, expects_more_bytes)
    assert verdict.result == "not_wellsynced", verdict.reasons


def test_a_warp_barrier_removed(entries: dict[str, Entry], prover: None) -> None:
    """The one before a row of keys or values is sent: lanes without a slot read what makes them, and send nothing, so
    that what has come says nothing of them. The prover found this, not the host machine."""
    verdict = judged(entries, FORWARD, ONE_TILE, lambda entry: without(entry, *lines(entry, WARP_BARRIER)))
    assert verdict.result == "potential_race", verdict.reasons


@pytest.mark.core
@pytest.mark.parametrize(
    "half, result", [("both", "potential_race"), ("wait", "potential_race"), ("arrive", "unsupported")]
)
def test_parts_of_a_cluster_barrier_removed(entries: dict[str, Entry], prover: None, half: str, result: str) -> None:
    """Of the memory that is given, between what one block writes and another reads. Without its arrive, the wait is
    refused as one that would never end."""

    def fault(entry: Entry) -> Entry:
        arrive, wait = cluster_barriers(entry)[0]
        return without(entry, *{"both": (arrive, wait), "wait": (wait,), "arrive": (arrive,)}[half])

    verdict = judged(entries, "given_memory_kernel", GIVEN_CLUSTER, fault)
    assert verdict.result == result, verdict.reasons
    assert half != "arrive" or "cluster_wait_without_arrive" in verdict.reasons[0]


@pytest.mark.core
def test_a_copys_wait_one_too_late(entries: dict[str, Entry], prover: None) -> None:
    verdict = judged(entries, "general_forward_tiles", SMALL, waits_late)
    assert verdict.result == "potential_race", verdict.reasons


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_copys_wait_one_too_late_in_the_ring(entries: dict[str, Entry], prover: None, direction: str) -> None:
    call = ring(direction, "bfloat16", channels_last=True)
    verdict = judged(entries, f"cluster_{direction}_kernel", call, waits_late)
    assert verdict.result == "potential_race", verdict.reasons
