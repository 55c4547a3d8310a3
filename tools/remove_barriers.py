"""Removes each barrier of the cluster kernels' PTX in turn and prints what the prover finds, as in docs/proofs.md.

python tools/remove_barriers.py [forward|backward]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "support" / "proof")]

import proofs  # noqa: E402
from configurations import DIRECTIONS, Call, ring  # noqa: E402
from faults import (  # noqa: E402
    BLOCK_BARRIER,
    GROUP_BARRIER,
    WARP_BARRIER,
    Line,
    cluster_barriers,
    expects_more_bytes,
    lines,
    waits_for_bytes,
    waits_late,
    without,
)
from prover import processor_seconds, prove  # noqa: E402
from ptx_entries import Entry  # noqa: E402

HEADER = (
    "| kernel | removed | configuration | result | first pair that the prover names | seconds |\n" + 6 * "|---" + "|"
)


def configurations(direction: str) -> dict[str, Call]:
    """From the smallest on: the first that shows a fault is enough."""
    # The forward kernel is another one then; in the backward kernel it is a branch of its own.
    wide = {"1 tile, float32 weights": Call(direction, wide_weights=True)} if direction == "backward" else {}
    return {
        "1 tile": Call(direction),
        **wide,
        "2 blocks": Call(direction, N=136, largest_cluster=2),
        "ring": ring(direction, "bfloat16", channels_last=True),
        # More numbers of the memory than channels: those of several warps lie where the image's sums lay.
        "1 tile, 40 rows of the memory, 2 slots": Call(direction, M=40, T=2),
    }


def faults(entry: Entry) -> Iterator[tuple[str, Entry]]:
    kinds: dict[str, list[tuple[Line, ...]]] = {
        "group barrier": [(line,) for line in lines(entry, GROUP_BARRIER)],
        "block barrier": [(line,) for line in lines(entry, BLOCK_BARRIER)],
        "warp barrier": [(line,) for line in lines(entry, WARP_BARRIER)],
        "cluster barrier": list(cluster_barriers(entry)),
        "wait for what is sent": waits_for_bytes(entry),
    }
    for kind, found in kinds.items():
        for number, removed in enumerate(found, 1):
            yield f"{kind} {number} of {len(found)}", without(entry, *removed)
    yield "nothing, but every wait for copies lets one group more be under way", waits_late(entry)
    yield "nothing, but four bytes more are expected", expects_more_bytes(entry)


def row(direction: str, name: str, broken: Entry) -> str:
    kernel = f"cluster_{direction}_kernel"
    before = processor_seconds()
    shown_by = "none of them"
    for about, call in configurations(direction).items():
        verdict = prove(broken, proofs.launch_of(kernel, call.arguments()), 900)
        if verdict.result != "race_free":
            shown_by = about
            break
    pair = [
        f"line {place['location']['line']} ({place['mode']})"
        for race in verdict.report.get("races", [])[:1]
        for place in (race["first"], race["second"])
    ]
    shown = ", ".join(pair) or (verdict.reasons[0] if verdict.reasons else "")
    return f"| {direction} | {name} | {shown_by} | {verdict.result} | {shown} | {processor_seconds() - before:.0f} |"


def directions(words: list[str]) -> list[str]:
    """Those that are named, or both.

    Raises:
        SystemExit: a word is none.
    """
    if wrong := [word for word in words if word not in DIRECTIONS]:
        raise SystemExit(f"{wrong[0]!r} is no direction: expected {' or '.join(DIRECTIONS)}")
    return words or list(DIRECTIONS)


if __name__ == "__main__":
    chosen = directions(sys.argv[1:])
    print(HEADER)
    for direction in chosen:
        launch = proofs.launch_of(f"cluster_{direction}_kernel", Call(direction).arguments())
        for name, broken in faults(proofs.entries()[launch.kernel]):
            print(row(direction, name, broken), flush=True)
