"""Step 0 of the memory side's forward pass, of one image of 16 positions and one slot, without φ.

The mean, and in a row what is written of the word, A w, B r and what is written of the image.
"""

import torch


def reference(sums, words, gate_word, gate_image, write_word, write_word_bias, write_image, write_image_bias):
    mean = sums / 16
    parts = (
        (write_word * words).sum(1) + write_word_bias,
        (gate_word * words).sum(1),
        (gate_image * mean).sum(1),
        (write_image * mean).sum(1) + write_image_bias,
    )
    return mean, torch.cat(parts)
