"""Runs the proofs of tests/proof whose names hold the given words and prints a table of them: docs/proofs.md holds it.

python tools/prove_kernels.py cluster_forward_kernel bfloat16
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "support" / "proof")]

import proofs  # noqa: E402
from configurations import PROOFS, Proof, steps_of  # noqa: E402
from prover import Verdict, processor_seconds, prove  # noqa: E402

# Under this name a test's row goes to pytest's report, whose end prints the table.
PROOF_ROW = "row of the table of proofs"
HEADER = "| kernel | configuration | blocks × cluster | result | seconds |\n|---|---|---|---|---|"


def judge(proof: Proof) -> tuple[Verdict, str]:
    """What the prover says, and that as a row of the table."""
    launch = proofs.launches_of(proof.kernel, proof.call.arguments())[proof.step]
    before = processor_seconds()
    verdict = prove(proofs.entries()[launch.kernel], launch, proof.seconds)
    form = "channels_last" if proof.call.channels_last else "contiguous"
    step = f", step {proof.step}" if steps_of(proof.kernel, proof.call) > 1 else ""
    about = f"{proof.call.direction}, {form}, {proof.about}{step}"
    result = f"{verdict.result} | {processor_seconds() - before:.1f}"
    return verdict, f"| `{launch.kernel}` | {about} | {launch.blocks} × {launch.cluster} | {result} |"


def named(words: list[str]) -> list[Proof]:
    """The proofs whose names hold all of the words.

    Raises:
        SystemExit: there is none.
    """
    found = [proof for proof in PROOFS if all(word in proof.id for word in words)]
    if not found:
        raise SystemExit(f"no proof's name holds {' and '.join(map(repr, words))}; one is {PROOFS[0].id!r}")
    return found


if __name__ == "__main__":
    chosen = named(sys.argv[1:])
    print(HEADER)
    for proof in chosen:
        print(judge(proof)[1], flush=True)
