"""One refinement stage: look at the words, then double the size (KVM-GAN, section 3.2)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

import kvmem
from kvmgan.errors import UserError
from kvmgan.models.blocks import ResidualBlock, UpsampleBlock
from kvmgan.models.legacy_mask import look_with_tiled_mask
from kvmgan.models.recomputation import run_block
from kvmgan.models.word_attention import WordAttention

Refinement = Literal["memory", "attention", "none"]


class RefinementStage(nn.Module):
    """Image features (B, C, H, W) and words to features (B, C, 2H, 2W).

    ``refinement`` chooses how the words come in; all that follows is the same:

    - ``"memory"``: the key-value memory's response, twice (KVM-GAN, DM-GAN);
    - ``"attention"``: the features and their word context (AttnGAN);
    - ``"none"``: the features, twice: no word is looked at (StackGAN-v2's plain stages).

    These 2C channels go through the residual blocks and one upsampling block back to C. What comes in twice is
    convolved once, with the two halves of the weight added.

    Args:
        width: channels C.
        word_dim: length D of a word feature.
        refinement: as above.
        residual_blocks: number of residual blocks.
        legacy_mask: whether words are masked in the order of the released code, see
            :func:`kvmgan.models.legacy_mask.look_with_tiled_mask`.
        memory_options: keyword arguments of :class:`kvmem.KVMemoryLayer`, for ``"memory"`` only.

    Raises:
        UserError: unknown ``refinement``.
    """

    def __init__(
        self,
        width: int,
        word_dim: int,
        *,
        refinement: Refinement = "memory",
        residual_blocks: int = 2,
        legacy_mask: bool = False,
        memory_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if refinement not in get_args(Refinement):
            raise UserError(f"refinement is {refinement!r}, expected one of {', '.join(get_args(Refinement))}")
        self.refinement = refinement
        self.legacy_mask = legacy_mask
        if refinement == "memory":
            self.memory = kvmem.KVMemoryLayer(width, word_dim, **(memory_options or {}))
        elif refinement == "attention":
            self.attention = WordAttention(width, word_dim)
        self.residual = nn.ModuleList(ResidualBlock(2 * width) for _ in range(residual_blocks))
        self.upsample = UpsampleBlock(2 * width, width)

    def forward(
        self,
        features: Tensor,
        words: Tensor,
        mask: Tensor,
        *,
        return_attention: bool = False,
        recompute: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the refined features and, if asked for and there is one, the attention (B, T, H, W).

        Args:
            features: (B, C, H, W).
            words: (B, T, D).
            mask: (B, T) bool, True where the slot holds a word.
            return_attention: whether to return the attention.
            recompute: whether backward computes the blocks' activations again instead of keeping them.
        """
        attention = None
        if self.refinement != "none":
            look = partial(self._look, features, words, return_attention=return_attention)
            if self.legacy_mask:
                features, attention = look_with_tiled_mask(look, mask, features.shape[2:])
            else:
                features, attention = look(mask)
        doubled = self.refinement != "attention"
        for block in self.residual:
            features = run_block(block, features, recompute=recompute, doubled=doubled)
            doubled = False
        refined = run_block(self.upsample, features, recompute=recompute, doubled=doubled)
        return refined, attention if return_attention else None

    def _look(
        self, features: Tensor, words: Tensor, mask: Tensor, *, return_attention: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What the features see of the words: the memory's response, or themselves and their context."""
        if self.refinement == "attention":
            context, attention = self.attention(features, words, mask)
            return torch.cat((features, context), dim=1), attention
        if return_attention:
            return self.memory(features, words, mask, return_attention=True)
        return self.memory(features, words, mask), None
