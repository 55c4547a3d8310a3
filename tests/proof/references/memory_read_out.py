"""Step 1 of it: key and value of one slot, without φ and with a linear write gate."""

import torch


def reference(word_part, gate, gate_image, image_part, key, key_bias, value, value_bias):
    g = gate + gate_image
    m = g * word_part + (1 - g) * image_part
    return torch.cat(((key * m).sum(1) + key_bias, (value * m).sum(1) + value_bias))
