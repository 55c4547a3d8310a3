"""Gradients of weights, biases and words of one image and one slot, as products of what backward left of it.

The parts of csrc/cuda/layout.h: written is m, the others are gradients of what they are named after.
"""

import torch


def outer(left, right):
    return left.unsqueeze(1) * right.unsqueeze(0)


def reference(
    written,
    word_part,
    gate,
    gate_sum,
    image_part,
    keys,
    values,
    response,
    response_image,
    response_bias,
    words,
    kept_values,
    mean,
    write_word,
    gate_word,
):
    return (
        (word_part.unsqueeze(1) * write_word).sum(0) + (gate.unsqueeze(1) * gate_word).sum(0),
        outer(gate, words),
        outer(gate_sum, mean),
        outer(word_part, words),
        word_part * 1,
        outer(image_part, mean),
        image_part * 1,
        outer(keys, written),
        keys * 1,
        outer(values, written),
        values * 1,
        torch.cat([response_image, response * kept_values]),
        response_bias * 1,
    )
