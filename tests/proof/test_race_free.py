"""Every CUDA kernel's PTX, as shipped, has no race and no mismatched barrier in any schedule of these launches."""

from __future__ import annotations

from collections.abc import Callable

import proofs
import pytest
from configurations import PROOFS, UNPROVEN, Call, Proof, Unproven, ring, steps_of
from prove_kernels import PROOF_ROW, judge
from prover import described, prove
from ptx_entries import Entry


def parameters(found: tuple[Proof, ...]) -> list:
    return [pytest.param(proof, id=proof.id, marks=[pytest.mark.core] if proof.core else []) for proof in found]


@pytest.mark.proof
@pytest.mark.parametrize("proof", parameters(PROOFS))
def test_race_free(
    entries: dict[str, Entry], prover: None, proof: Proof, record_property: Callable[[str, str], None]
) -> None:
    verdict, row = judge(proof)
    record_property(PROOF_ROW, row)
    assert verdict.result == "race_free", verdict.reasons
    assert verdict.report["checks"]["memory"] == verdict.report["checks"]["synchronization"] == "passed"
    assert verdict.report["search_complete"] and verdict.report["memory_analysis_complete"]
    assert not verdict.report["assumption_dependent"]


@pytest.mark.proof
@pytest.mark.core
@pytest.mark.parametrize("unproven", UNPROVEN, ids=lambda unproven: unproven.proof.id)
def test_what_cannot_be_proven_is_still_so(entries: dict[str, Entry], prover: None, unproven: Unproven) -> None:
    """A prover that has learnt it fails this: the configuration then belongs among the proofs."""
    launch = proofs.launch_of(unproven.proof.kernel, unproven.proof.call.arguments())
    verdict = prove(entries[launch.kernel], launch, unproven.proof.seconds)
    assert verdict.result == unproven.result, verdict.reasons


def test_every_kernel_of_the_library_has_a_proof(entries: dict[str, Entry]) -> None:
    """By the names of its instances: a kernel without one, or one that is no longer there, is an error."""
    found = {proof: proofs.launches_of(proof.kernel, proof.call.arguments()) for proof in PROOFS}
    proven = {launches[0].kernel for launches in found.values()}
    assert set(entries) - proven == set()
    assert proven - set(entries) == set()
    assert all(len(launches) == steps_of(proof.kernel, proof.call) for proof, launches in found.items())


def test_configurations_have_names_of_their_own() -> None:
    assert len({proof.id for proof in PROOFS}) == len(PROOFS)


def test_the_kernels_are_told_what_the_launch_code_gives_them(entries: dict[str, Entry]) -> None:
    """Structs of the PTX's size, and every address that a kernel reads is of a tensor that the call has."""
    for proof in PROOFS:
        launch = proofs.launches_of(proof.kernel, proof.call.arguments())[proof.step]
        given = described(entries[launch.kernel], launch)
        tensors = {found["object"].split(" from byte ")[0] for found in given["declarations"]}
        assert tensors and tensors <= set(launch.names)
        numbers = {found["offset"]: found["value"] for found in given["arguments"]}
        assert all(value < 1 << 40 for value in numbers.values()), "an address that no tensor has"


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_ring_is_smaller_than_its_tiles(entries: dict[str, Entry], direction: str, dtype: str) -> None:
    """As the device has no room for all: with room, the same call takes more shared memory."""
    made = ring(direction, dtype, channels_last=True)
    roomy = Call(direction, dtype, N=made.N)
    kernel = f"cluster_{direction}_kernel"
    tight, wide = (proofs.launch_of(kernel, call.arguments()) for call in (made, roomy))
    assert (tight.blocks, tight.cluster) == (wide.blocks, wide.cluster) == (1, 1)
    assert tight.shared_bytes < wide.shared_bytes
