"""What a block does between its passes over positions, step by step as the source has it: a chain of waits, in clocks.

The weakest part of the model. Trip counts are read off the source by hand for scalar gates, and latencies are what
others measured on Ampere and Hopper; how well the compiler lets waits overlap is guessed by taking each batch of loads
as one wait.
"""

from __future__ import annotations

from gpu_plan import CHANNELS, SLOTS, WORD_CHANNELS, divide_up

# Clocks: a number from shared memory, from the second-level cache, from memory; a barrier of a block; a barrier of a
# cluster with the fence that publishes what was written before it; a number sent to another block, until it has been
# waited for; a dependent operation of a chain; a number of shared memory where several are under way.
SHARED, CACHE, MEMORY, BARRIER, CLUSTER, MESSAGE, CHAIN, PIPED = 30, 280, 700, 40, 450, 250, 5, 8
WARPS, THREADS = 8, 256  # of a block
MEMORY_CHANNELS = 2 * CHANNELS
ROWS = MEMORY_CHANNELS + 1  # of the memory and of the scalar write gate


def words(ranks: int, item: int) -> int:
    """φ(W_w w + b_w) and A w: a row a warp, words in batches of four."""
    batches = divide_up(SLOTS, 4) * divide_up(WORD_CHANNELS, 32 * 16 // item)
    return MEMORY + divide_up(ROWS, ranks * WARPS) * (
        CACHE + batches * (CACHE // 2 + 4 * 16 // item * CHAIN) + 31 * CHAIN
    )


def image_part(item: int) -> int:
    """φ(W_r r + b_r) and B r: a row a thread."""
    return CACHE * divide_up(CHANNELS, 4 * 16 // item) + CHANNELS * PIPED + BARRIER


def read_out(ranks: int) -> int:
    """k and v: a row of K or V a warp, a slot a lane, the row's weights by shuffles."""
    return divide_up(2 * CHANNELS, ranks * WARPS) * (CACHE + MEMORY_CHANNELS * PIPED)


def response() -> int:
    """W_g's second half times v, by one warp."""
    return CACHE + CHANNELS // 4 * (SHARED + 2 * CHAIN)


def fill(columns: int = 24) -> int:
    """A table of the matrix units, from numbers in shared memory."""
    return divide_up(CHANNELS * columns, THREADS) * (SHARED + 6 * CHAIN) + BARRIER


def forward(ranks: int, item: int) -> int:
    """Between the last tile's arrival and the first pass over positions, on the cluster path."""
    sums = SHARED + 16 * CHAIN + 2 * BARRIER + 16 * PIPED
    # The words are fetched while the mean is on its way.
    fetched = divide_up(ROWS * SLOTS, 4 * THREADS) * CACHE
    mean = ranks * PIPED + max(MESSAGE, fetched) + ranks * PIPED + BARRIER
    memory = divide_up(MEMORY_CHANNELS * SLOTS, THREADS) * (2 * SHARED + 12 * CHAIN) + BARRIER
    exchange = ranks * PIPED + MESSAGE
    return sums + mean + image_part(item) + memory + read_out(ranks) + exchange + 2 * fill() + response()


def backward_begin() -> int:
    """The tables from the kept memory, while the first tiles are on their way."""
    return 3 * fill() + 2 * MEMORY + CACHE


def backward(ranks: int) -> int:
    """From the last pass over positions to the mean's gradient, on the cluster path."""
    groups = 3 * BARRIER + 3 * 6 * SHARED + 48 * PIPED
    # A block says that it is done with its tiles before its groups add up: nobody waits for that.
    sums = MESSAGE + (48 + 2 * ranks) * PIPED + BARRIER
    read = divide_up(CHANNELS, ranks * WARPS) * (2 * CACHE + 2 * ranks * PIPED) + ranks * 2 * PIPED + MESSAGE
    return groups + sums + read + memory_rows(ranks) + CLUSTER + mean_gradient()


def memory_rows(ranks: int) -> int:
    """dm and what follows: a channel of the memory a warp, two shuffles and two numbers for each of the image's."""
    a_row = 2 * CACHE + CHANNELS * 2 * PIPED + 2 * CACHE + 5 * SHARED
    return divide_up(MEMORY_CHANNELS, ranks * WARPS) * a_row + BARRIER + WARPS * PIPED + ranks * PIPED


def mean_gradient() -> int:
    """dr, by every block for itself."""
    return (
        divide_up(CHANNELS, 32) * divide_up(MEMORY_CHANNELS, 8 * WARPS) * CACHE
        + 2 * CACHE
        + 2 * BARRIER
        + WARPS * PIPED
    )


def memory_forward(ranks: int, item: int, chunks: int) -> int:
    """The memory side as a launch of its own, on the general path: m is read from the first-level cache."""
    written = words(ranks, item) + image_part(item) + 2 * CLUSTER
    return chunks * CHAIN * 4 + CACHE + written + read_out(ranks) * 2 + response()


def memory_backward(ranks: int, chunks: int) -> int:
    """The same for backward, after adding up the chunks' sums."""
    added = divide_up(2 * CHANNELS * SLOTS, ranks * THREADS) * divide_up(chunks, 4) * CACHE
    return added + memory_rows(ranks) + 3 * CLUSTER + mean_gradient()


def parameters(batch: int) -> int:
    """The products over images and slots: a block's warps take the images in turn."""
    return divide_up(batch, WARPS) * (2 * CACHE + 32 * SLOTS + 10 * SLOTS) + MEMORY + 8 * SHARED
