"""The deep attentional multimodal similarity losses (AttnGAN, section 3.2, equations 7 to 12)."""

import torch
import torch.nn.functional as F
from torch import Tensor

# As in the released code: a cosine's denominator is at least this.
COSINE_EPSILON = 1e-8


def word_similarities(
    regions: Tensor, words: Tensor, mask: Tensor, *, gamma1: float = 4.0, gamma2: float = 5.0
) -> Tensor:
    """How well each image's regions match each caption's words: (B images, B captions), before gamma3.

    With e_t the words of a caption and f_r the regions of an image: s = e_t . f_r, softmax over the words
    (equation 8), times gamma1, softmax over the regions, c_t = sum_r alpha_r f_r (equation 9),
    log sum_t exp(gamma2 cos(c_t, e_t)) (equation 10 without its root, as in the released code).

    Args:
        regions: (B, D, h, w).
        words: (B, T, D).
        mask: (B, T) bool, True where the slot holds a word; at least one a caption.
        gamma1: sharpness of the attention over regions.
        gamma2: sharpness of the sum over words.
    """
    batch, slots, _ = words.shape
    features = regions.flatten(2)
    # (images, captions, slots, regions)
    scores = torch.matmul(words.flatten(0, 1), features).unflatten(1, (batch, slots))
    masked = scores.masked_fill(~mask[None, :, :, None], float("-inf"))
    attention = (gamma1 * masked.softmax(dim=2)).softmax(dim=3)
    # c_t . e_t and |c_t|^2 without c_t itself, which would be the largest tensor here: both are sums over regions.
    dots = (attention * scores).sum(dim=3)
    gram = torch.matmul(features.transpose(1, 2), features)
    squares = (torch.matmul(attention.flatten(1, 2), gram).unflatten(1, (batch, slots)) * attention).sum(dim=3)
    lengths = squares.clamp(min=COSINE_EPSILON**2).sqrt() * words.norm(dim=2)
    cosines = dots / lengths.clamp(min=COSINE_EPSILON)
    return (gamma2 * cosines).masked_fill(~mask, float("-inf")).logsumexp(dim=2)


def _matching_loss(logits: Tensor, class_ids: Tensor | None) -> Tensor:
    """Cross-entropy of the true pairs, both ways: caption given image plus image given caption.

    Pairs of one class that aren't the true pair are no negatives: they are left out.
    """
    batch = len(logits)
    labels = torch.arange(batch, device=logits.device)
    if class_ids is not None:
        same_class = class_ids[:, None] == class_ids[None, :]
        same_class = same_class & (labels[:, None] != labels[None, :])
        logits = logits.masked_fill(same_class, float("-inf"))
    return F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)


def word_loss(
    regions: Tensor,
    words: Tensor,
    mask: Tensor,
    class_ids: Tensor | None,
    *,
    gamma1: float = 4.0,
    gamma2: float = 5.0,
    gamma3: float = 10.0,
) -> Tensor:
    """Matching loss of image regions and words, both directions summed, in float32.

    Args:
        regions: (B, D, h, w) region features of the images.
        words: (B, T, D) word features of their captions.
        mask: (B, T) bool, True where the slot holds a word; at least one a caption.
        class_ids: (B,) int64: captions of other images of the same class aren't negatives. ``None``: all are.
        gamma1: sharpness of the attention over regions.
        gamma2: sharpness of the sum over words.
        gamma3: sharpness of the softmax over the batch.

    Raises:
        ValueError: shapes that don't fit, or a mask that isn't bool.
    """
    if regions.ndim != 4 or words.ndim != 3 or regions.shape[:2] != (words.shape[0], words.shape[2]):
        raise ValueError(
            f"regions is {tuple(regions.shape)} and words {tuple(words.shape)}, expected (B, D, h, w) and (B, T, D)"
        )
    if mask.dtype != torch.bool or mask.shape != words.shape[:2]:
        raise ValueError(f"mask is {tuple(mask.shape)} {mask.dtype}, expected {tuple(words.shape[:2])} torch.bool")
    with torch.autocast(regions.device.type, enabled=False):
        similarities = word_similarities(regions.float(), words.float(), mask, gamma1=gamma1, gamma2=gamma2)
        return _matching_loss(gamma3 * similarities, class_ids)


def sentence_loss(
    global_features: Tensor, sentence: Tensor, class_ids: Tensor | None, *, gamma3: float = 10.0
) -> Tensor:
    """Matching loss of images and sentences by the cosine of their features, both directions summed, in float32.

    Args:
        global_features: (B, D) global features of the images.
        sentence: (B, D) sentence features of their captions.
        class_ids: (B,) int64: captions of other images of the same class aren't negatives. ``None``: all are.
        gamma3: sharpness of the softmax over the batch.

    Raises:
        ValueError: the two shapes differ or aren't (B, D).
    """
    if global_features.ndim != 2 or global_features.shape != sentence.shape:
        raise ValueError(
            f"global_features is {tuple(global_features.shape)} and sentence {tuple(sentence.shape)}, "
            "expected both (B, D)"
        )
    with torch.autocast(global_features.device.type, enabled=False):
        images, captions = global_features.float(), sentence.float()
        lengths = images.norm(dim=1)[:, None] * captions.norm(dim=1)[None, :]
        cosines = (images @ captions.T) / lengths.clamp(min=COSINE_EPSILON)
        return _matching_loss(gamma3 * cosines, class_ids)


def damsm_loss(
    seen: tuple[Tensor, Tensor],
    words: Tensor,
    sentence: Tensor,
    mask: Tensor,
    class_ids: Tensor | None,
    *,
    gamma1: float = 4.0,
    gamma2: float = 5.0,
    gamma3: float = 10.0,
) -> tuple[Tensor, Tensor]:
    """Word loss and sentence loss of what an image encoder saw, its regions (B, D, h, w) and global features (B, D).

    The other arguments and the errors are those of :func:`word_loss` and :func:`sentence_loss`.
    """
    regions, features = seen
    by_word = word_loss(regions, words, mask, class_ids, gamma1=gamma1, gamma2=gamma2, gamma3=gamma3)
    return by_word, sentence_loss(features, sentence, class_ids, gamma3=gamma3)
