"""What the kernels are called with, in the letters of kvmem/reference.py."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import triton.language as tl
from torch import Tensor


class Chip(Enum):
    """What decides how many registers a product of matrices takes."""

    HOPPER = "operands in shared memory, by groups of four warps"
    WARPS_OF_32 = "operands in registers, at most 255 of a thread"
    WARPS_OF_64 = "operands in registers, 512 of a thread where a program has four warps"


class Layer(NamedTuple):
    """What a kernel is compiled for: channels, options, and blocks that depend on these alone."""

    C: int
    M: int  # 0 where the memory is given instead of written, and then G too
    G: int
    R: int  # 0: no response gate
    LINEAR: bool  # no σ on the write gate
    RELU: bool
    DTYPE: tl.dtype  # the image's
    WEIGHTS: tl.dtype  # the weights', of which float32 beside an image of 16 bits makes the memory side float32
    CHIP: Chip
    PRECISION: str  # of products of float32 matrices
    TUNED: bool  # one program holds an image's k, v and u
    CHUNKS: int  # at least as many as a call's, a power of two
    GATE_IS_KEY: bool  # there is room behind the slots for a scalar response gate's weights of h
    BLOCK_T: int  # all slots
    BLOCK_C: int
    WIDTH: int  # other columns beside all slots
    STEP_M: int  # channels of m that k and v take at a time
    ROWS: int  # channels of m, k or v that a program takes backward
    GATE_ROWS: int  # of the write gate's gradient: M, or of a scalar gate the parts that the blocks of ROWS give


class Sizes(NamedTuple):
    """The sizes of a call. `chunks` of `span` positions each make up an image; strides are the image's."""

    B: int
    C: int
    N: int
    T: int
    D: int
    chunks: int
    span: int
    stride_b: int
    stride_n: int
    stride_c: int


class Weights(NamedTuple):
    """The parameters, or their gradients where they are needed, in the order of `kvmem.checks.WEIGHT_NAMES`."""

    gate_word: Tensor | None
    gate_image: Tensor | None
    write_word: Tensor | None
    write_word_bias: Tensor | None
    write_image: Tensor | None
    write_image_bias: Tensor | None
    key: Tensor | None
    key_bias: Tensor | None
    value: Tensor | None
    value_bias: Tensor | None
    response_gate: Tensor | None
    response_gate_bias: Tensor | None


class Scratch(NamedTuple):
    """What `kv_memory_blocks_backward` leaves to `kv_memory_sums_backward`, in the image's type."""

    ds: Tensor  # (B, N, BLOCK_T)
    alpha: Tensor  # (B, N, BLOCK_T); γ α where γ is a scalar
    dz: Tensor  # as the image; (B, N) where γ is a scalar
    do: Tensor | None  # γ dout, as the image; None where γ is a scalar


class Programs(NamedTuple):
    """How many programs every result takes, in the order in which they are numbered; 0 where it isn't needed."""

    mean: int
    words: int
    gate_word: int
    gate_image: int
    write_word: int
    write_image: int
    key: int
    value: int
    response_gate_of_image: int
    response_gate_of_values: int
    response_gate_bias: int
