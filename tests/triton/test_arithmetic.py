"""The rounding of the kernels in Triton's interpreter, which by itself cuts digits off instead."""

import pytest
import torch

BLOCK = 1024


def numbers() -> torch.Tensor:
    """float32 of every kind: halfway between two numbers of 16 bits, denormal in either type, too large, no number."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (20000,), generator=generator, dtype=torch.int64).to(torch.int32)
    any_bits = bits.view(torch.float32)
    # The digits that float16 and bfloat16 lose are 13 and 16: just below, at and above their middle.
    halves = [((bits[:3000] >> n << n) | (1 << (n - 1))) + step for n in (13, 16) for step in (-1, 0, 1)]
    near_one = torch.randn(20000, generator=generator)
    small = near_one[:1000] * 2.0 ** torch.randint(-149, -10, (1000,), generator=generator)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38, -3.4e38, 65519.0, 65520.0, 1e-45])
    return torch.cat((any_bits, *(half.view(torch.float32) for half in halves), near_one, small, special))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounded_is_to_the_nearest_and_to_even(interpreter, dtype):
    """As torch rounds, bit for bit; what is no number stays none.

    The interpreter makes a mess of bfloat16's denormal numbers, and of float32's that become them: they are left out.
    """
    from triton_rounding import round_all

    from kvmem.triton.launch import DTYPES

    x = numbers()
    if dtype == torch.bfloat16:
        x = x[~(x.abs() < torch.finfo(dtype).tiny)]
    found, expected = torch.empty_like(x, dtype=dtype), x.to(dtype)
    round_all[(-(-len(x) // BLOCK),)](x, found, len(x), DTYPES[dtype], BLOCK)
    assert torch.equal(found.isnan(), expected.isnan())
    different = ~expected.isnan() & ((found != expected) | (found.signbit() != expected.signbit()))
    assert not different.any(), list(zip(x[different], found[different], expected[different], strict=True))[:5]
