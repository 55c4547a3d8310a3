"""The order in which the released AttnGAN and DM-GAN code masks words: a caption's mask at another's positions."""

from collections.abc import Callable

import torch
from torch import Tensor

Look = Callable[[Tensor], tuple[Tensor, Tensor | None]]


def look_with_tiled_mask(look: Look, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """What ``look`` sees where position n of image b is masked by caption (b N + n) mod B, N = H W.

    The release repeats the masks of a batch, one after the other, along rows that are ordered by image and position.
    So a picture depends on its batch; in a batch of one it is the right picture. Every mask is looked with once: B
    times the work, for scoring released weights as they were published.

    Args:
        look: from a mask (B, T) to features (B, C, H, W) and attention (B, T, H, W) or None.
        mask: (B, T) bool, True where the slot holds a word.
        size: H and W.
    """
    batch, (height, width) = len(mask), size
    owner = torch.arange(batch * height * width, device=mask.device).remainder(batch).view(batch, 1, height, width)
    features, attentions = zip(*(look(caption.expand_as(mask)) for caption in mask), strict=True)
    seen = None if attentions[0] is None else _pick(attentions, owner)
    return _pick(features, owner), seen


def _pick(results: tuple[Tensor, ...], owner: Tensor) -> Tensor:
    """At every position the result of its owner's mask."""
    picked = results[0]
    for number, result in enumerate(results[1:], start=1):
        picked = torch.where(owner == number, result, picked)
    return picked
