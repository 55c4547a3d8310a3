"""Copies of a kernel's PTX with one fault each: what the prover must find."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ptx_entries import Entry

GROUP_BARRIER = r"bar\.sync %r\d+, %r\d+;|bar\.sync [^0]\d*, \d+;"
BLOCK_BARRIER = r"bar\.sync 0;"
CLUSTER_BARRIER = r"barrier\.cluster\.(arrive|wait)\S*;"
WARP_BARRIER = r"bar\.warp\.sync \S+;"
BYTES_WAIT = r"mbarrier\.try_wait\S* done, \[%r\d+\], 0;|@done bra DONE;|bra WAIT;"
WAIT = r"cp\.async\.wait_group (\d+);"


@dataclass(frozen=True)
class Line:
    """A line of an entry's text: its number, from 1, and what stands in it."""

    number: int
    text: str


def lines(entry: Entry, pattern: str) -> list[Line]:
    """Those that hold nothing but the pattern."""
    found = ((number, line.strip()) for number, line in enumerate(entry.text.splitlines(), 1))
    return [Line(number, line) for number, line in found if re.fullmatch(rf"(?:@!?%p\d+ )?(?:{pattern})", line)]


def without(entry: Entry, *removed: Line) -> Entry:
    """The entry without these lines."""
    numbers = {line.number for line in removed}
    kept = ("" if number in numbers else line for number, line in enumerate(entry.text.splitlines(), 1))
    return replace(entry, text="\n".join(kept) + "\n")


def cluster_barriers(entry: Entry) -> list[tuple[Line, Line]]:
    """Arrive and wait of every barrier of the cluster, as they follow each other."""
    found = lines(entry, CLUSTER_BARRIER)
    if [line.text.split(".")[2] for line in found] != ["arrive", "wait"] * (len(found) // 2):
        raise ValueError(f"{entry.name}: its cluster barriers aren't pairs of arrive and wait")
    return list(zip(found[::2], found[1::2], strict=True))


def waits_for_bytes(entry: Entry) -> list[tuple[Line, ...]]:
    """The instructions of every wait for what other blocks send."""
    found = lines(entry, BYTES_WAIT)
    if len(found) % 3 or any(not line.text.startswith("mbarrier") for line in found[::3]):
        raise ValueError(f"{entry.name}: its waits for bytes aren't loops of three instructions")
    return list(zip(*(found[i::3] for i in range(3)), strict=True))


def expects_more_bytes(entry: Entry) -> Entry:
    """Every count of bytes to come is by four too large: what waits for it waits for ever."""
    pattern = r"(mbarrier\.arrive\.expect_tx\S* _, \[%r\d+\], )(%r\d+);"
    more, count = re.subn(pattern, r"add.s32 \2, \2, 4;\n\1\2;", entry.text)
    if not count:
        raise ValueError(f"{entry.name}: expects no bytes")
    return replace(entry, text=more)


def waits_late(entry: Entry) -> Entry:
    """Every wait for copies lets one more group of them be under way."""
    later = re.sub(WAIT, lambda found: f"cp.async.wait_group {int(found[1]) + 1};", entry.text)
    return replace(entry, text=later)
