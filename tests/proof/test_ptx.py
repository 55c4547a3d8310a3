"""How PTX is read and rewritten before the prover gets it."""

from __future__ import annotations

import operator
import random
import re

import pytest
from faults import CLUSTER_BARRIER, cluster_barriers, lines, waits_late, without
from prover import largest, without_bfi
from ptx_entries import Entry, Field, fields, split

CARRIED_OUT = {"shl": operator.lshift, "and": operator.and_, "or": operator.or_}
HEADER = ".version 9.0\n.target sm_90\n.address_size 64\n\n"
BODY = """.visible .entry step(
.param .align 8 .b8 step_param_0[{size}]
)
{{
{code}
ret;
}}
"""


def entry(code: str, size: int = 64) -> Entry:
    (found,) = split(HEADER + BODY.format(size=size, code=code))
    return found


def test_the_fields_that_a_kernel_reads() -> None:
    """By the struct's name, by a register with its address, by one that is moved on, and by one of two."""
    found = fields(
        entry(
            "mov.b64 %rd1, step_param_0;\n"
            "ld.param.u64 %rd2, [step_param_0+8];\n"
            "add.s64 %rd3, %rd1, 40;\n"
            "ld.param.v2.u32 {%r1, %r2}, [%rd3+-24];\n"
            "selp.b64 %rd4, %rd1, %rd3, %p1;\n"
            "ld.param.u8 %rs1, [%rd4+1];"
        )
    )
    assert found == [Field(1, "u8"), Field(8, "u64"), Field(16, "u32"), Field(20, "u32"), Field(41, "u8")]


def test_the_fields_of_an_arrays_elements() -> None:
    code = "mov.b64 %rd1, step_param_0;\nmul.wide.s32 %rd2, %r1, 24;\nadd.s64 %rd3, %rd1, %rd2;\n"
    found = fields(entry(code + "ld.param.u32 %r2, [%rd3+4];", size=72))
    assert found == [Field(4, "u32"), Field(28, "u32"), Field(52, "u32")]


def test_a_field_read_in_a_way_that_nobody_follows_is_an_error() -> None:
    with pytest.raises(KeyError):
        fields(entry("ld.param.u32 %r2, [%rd9+4];"))
    with pytest.raises(ValueError, match=r"ld\.param"):
        fields(entry("ld.param.u32 %r2, [%rd9, 4];"))


def test_of_fields_that_overlap_the_longest_is_given() -> None:
    assert largest([Field(8, "s32"), Field(8, "u64"), Field(12, "u32"), Field(16, "u8")]) == [
        Field(8, "u64"),
        Field(16, "u8"),
    ]


def test_an_inserted_field_of_bits_is_the_same_in_shifts_and_masks() -> None:
    """The four instructions, carried out here."""
    numbers = random.Random(0)
    for _ in range(50):
        start, length = numbers.randrange(32), numbers.randrange(1, 33)
        inserted, base = numbers.getrandbits(32), numbers.getrandbits(32)
        code = without_bfi(entry(f"bfi.b32 %r3, %r1, %r2, {start}, {length};").text)
        values = {"%r1": inserted, "%r2": base}
        for name, to, first, second in re.findall(r"(shl|and|or)\.b32 (%\w+), (%\w+), (%?\w+);", code):
            x, y = (values[operand] if operand in values else int(operand) for operand in (first, second))
            values[to] = CARRIED_OUT[name](x, y) & 0xFFFFFFFF
        bits = [(inserted >> i - start if start <= i < start + length else base >> i) & 1 for i in range(32)]
        assert values["%r3"] == sum(bit << i for i, bit in enumerate(bits))
    with pytest.raises(ValueError, match="bfi"):
        without_bfi(entry("bfi.b64 %rd3, %rd1, %rd2, 0, 8;").text)


def test_faults_change_what_they_name() -> None:
    barrier = "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;"
    made = entry(f"cp.async.wait_group 0;\n{barrier}\n{barrier}")
    assert len(lines(made, CLUSTER_BARRIER)) == 4
    first, _ = cluster_barriers(made)
    assert len(lines(without(made, *first), CLUSTER_BARRIER)) == 2
    assert "cp.async.wait_group 1;" in waits_late(made).text
    with pytest.raises(ValueError, match="pairs"):
        cluster_barriers(without(made, first[0]))
