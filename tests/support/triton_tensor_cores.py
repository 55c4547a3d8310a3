"""Products of float32 matrices in Triton's interpreter as NVIDIA's tensor cores compute them in its mode tf32x3."""

from __future__ import annotations

import numpy as np
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

STEP = 8  # terms that are added up at a time


def tf32(x: np.ndarray) -> np.ndarray:
    """x to the nearest number of 10 binary digits behind the point."""
    return ((x.astype(np.float32).view(np.uint32) + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)


def truncated(x: np.ndarray) -> np.ndarray:
    """x, float64, to float32 toward zero."""
    nearest = x.astype(np.float32)
    return np.where(np.abs(nearest.astype(np.float64)) > np.abs(x), np.nextafter(nearest, np.float32(0)), nearest)


def truncating_product(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    """total + a b, whose sums are cut off after every STEP terms."""
    for k in range(0, a.shape[1], STEP):
        terms = a[:, k : k + STEP].astype(np.float64) @ b[k : k + STEP].astype(np.float64)
        total = truncated(total.astype(np.float64) + terms)
    return total


def create_dot(
    builder: InterpreterBuilder, a: TensorHandle, b: TensorHandle, d: TensorHandle, *precision: object
) -> TensorHandle:
    """Three products of two tf32 numbers an operand, the small ones first; d is added in one rounded addition.

    So do Triton 3.4 to 3.9, for 8.0 and 9.0: their code has the three products on matrix units, and then an addition.
    """
    x, y = (np.ascontiguousarray(operand.data) for operand in (a, b))
    x_high, y_high = tf32(x), tf32(y)
    x_low, y_low = tf32(x - x_high), tf32(y - y_high)
    total = np.zeros_like(d.data)
    for left, right in ((x_low, y_high), (x_high, y_low), (x_high, y_high)):
        total = truncating_product(left, right, total)
    return TensorHandle(total + d.data, d.dtype.scalar)
