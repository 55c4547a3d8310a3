"""Attention of every image position to the words of the caption (AttnGAN, section 3.1)."""

import torch
from torch import Tensor, nn


class WordAttention(nn.Module):
    """For each position a mixture of the words: e = U w, alpha = softmax over words of (e . h), c = sum alpha e.

    Args:
        image_channels: channels C of the image features.
        word_dim: length D of a word feature.
    """

    def __init__(self, image_channels: int, word_dim: int) -> None:
        super().__init__()
        self.conv_context = nn.Conv2d(word_dim, image_channels, kernel_size=1, bias=False)

    def forward(self, features: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the context (B, C, H, W) and the attention (B, T, H, W).

        Args:
            features: (B, C, H, W) image features h.
            words: (B, T, D) word features w.
            mask: (B, T) bool, True where the slot holds a word. Other slots get no attention;
                a caption with no word at all has zero context.
        """
        embedded = self.conv_context(words.transpose(1, 2).unsqueeze(3)).squeeze(3)
        scores = torch.einsum("bct,bchw->bthw", embedded, features)
        slots = mask[:, :, None, None]
        # The lowest finite score, not -inf: a caption with no word stays free of NaN.
        scores = scores.masked_fill(~slots, torch.finfo(scores.dtype).min)
        attention = scores.softmax(dim=1) * slots
        context = torch.einsum("bct,bthw->bchw", embedded, attention.to(embedded.dtype))
        return context, attention
