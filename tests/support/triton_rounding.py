"""A kernel that does nothing but round."""

import triton
import triton.language as tl

from kvmem.triton.arithmetic import rounded


@triton.jit
def round_all(x, out, size, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, rounded(tl.load(x + i, mask=i < size), DTYPE), mask=i < size)
