"""Shapes that the CUDA kernels for clusters of blocks take in every type and format, for tests that are meant for them.

Rows are whole vectors of 16 bytes; `tests/gpu/test_launches.py` sees that each of them takes that path.
"""

# batch, channels, (height, width), slots, word channels
CLUSTER_SHAPES = {
    "a cluster of one block": (2, 64, (8, 16), 18, 12),
    "odd height": (2, 64, (9, 8), 18, 12),
    "40 positions": (2, 64, (5, 8), 18, 12),
    "1,640 positions": (3, 64, (40, 41), 18, 32),
    "the paper's second stage": (4, 64, (64, 64), 18, 256),
}
