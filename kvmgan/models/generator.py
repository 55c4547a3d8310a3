"""The generator: a first image from noise and sentence, then refinement stages that look at the words."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvmgan.errors import UserError
from kvmgan.models.blocks import ImageHead, UpsampleBlock
from kvmgan.models.conditioning import ConditioningAugmentation
from kvmgan.models.initialisation import initialise_weights
from kvmgan.models.recomputation import run_block
from kvmgan.models.refinement import Refinement, RefinementStage


class GeneratorOutput(NamedTuple):
    """What :class:`Generator` returns.

    Attributes:
        images: a stage each, (B, 3, s, s) in [-1, 1], s = base, 2 base, 4 base, ...
        attention: a refinement stage each, (B, T, s, s) with s the size that the stage starts from;
            empty unless asked for, and with refinement "none".
        mu: (B, condition_dim), mean of the condition.
        log_variance: (B, condition_dim), of the condition.
    """

    images: list[Tensor]
    attention: list[Tensor]
    mu: Tensor
    log_variance: Tensor


class InitialStage(nn.Module):
    """Condition and noise to features (B, width, base_size, base_size).

    A linear layer to 4x4 features of width * base_size / 4 channels; each upsampling block doubles
    the size and halves the channels, until ``width`` are left.
    """

    def __init__(self, input_dim: int, width: int, base_size: int) -> None:
        super().__init__()
        channels = width * base_size // 4
        self.fc = nn.Linear(input_dim, 2 * channels * 4 * 4, bias=False)
        self.norm = nn.BatchNorm1d(2 * channels * 4 * 4)
        self.blocks = nn.ModuleList()
        while channels > width:
            self.blocks.append(UpsampleBlock(channels, channels // 2))
            channels //= 2

    def forward(self, condition: Tensor, noise: Tensor, *, recompute: bool = False) -> Tensor:
        """``recompute``: whether backward computes the blocks' activations again instead of keeping them."""
        features = F.glu(self.norm(self.fc(torch.cat((condition, noise), dim=1))), dim=1)
        features = features.unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            features = run_block(block, features, recompute=recompute)
        return features


class Generator(nn.Module):
    """The text-to-image generator (KVM-GAN, section 3; DM-GAN's released code settles the details).

    With ``stages=3, base_size=64, width=64, refinement="memory"`` every parameter has the shape that
    it has in DM-GAN's released CUB generator; with ``width=32, refinement="attention"`` AttnGAN's.

    Args:
        stages: number of images, at base_size, 2 base_size, 4 base_size, ...
        base_size: height and width of the first image in pixels, a power of two >= 8.
        width: channels of the features that images are made from.
        noise_dim: length of the noise.
        condition_dim: length of the condition drawn from the sentence.
        sentence_dim: length of the sentence feature.
        word_dim: length of a word feature.
        refinement: how refinement stages use the words, see :class:`RefinementStage`.
        residual_blocks: residual blocks in each refinement stage.
        legacy_mask: whether words are masked in the order of the released code, see
            :func:`kvmgan.models.legacy_mask.look_with_tiled_mask`.
        memory_options: keyword arguments of :class:`kvmem.KVMemoryLayer`.
        checkpoint_activations: in training mode keep only what goes from block to block, and compute a block's
            activations again in backward: less memory for more time, the same gradients. Can be set at any time.

    Raises:
        UserError: a setting out of its range.
    """

    def __init__(
        self,
        *,
        stages: int = 3,
        base_size: int = 64,
        width: int = 64,
        noise_dim: int = 100,
        condition_dim: int = 100,
        sentence_dim: int = 256,
        word_dim: int = 256,
        refinement: Refinement = "memory",
        residual_blocks: int = 2,
        legacy_mask: bool = False,
        memory_options: Mapping[str, Any] | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if stages < 1:
            raise UserError(f"stages is {stages}, expected at least 1")
        if base_size < 8 or base_size & (base_size - 1):
            raise UserError(f"base_size is {base_size}, expected a power of two, 8 or more")
        self.sizes = [base_size * 2**stage for stage in range(stages)]
        self.noise_dim, self.condition_dim = noise_dim, condition_dim
        self.checkpoint_activations = checkpoint_activations
        self.conditioning = ConditioningAugmentation(sentence_dim, condition_dim)
        self.initial = InitialStage(condition_dim + noise_dim, width, base_size)
        self.refinements = nn.ModuleList(
            RefinementStage(
                width,
                word_dim,
                refinement=refinement,
                residual_blocks=residual_blocks,
                legacy_mask=legacy_mask,
                memory_options=memory_options,
            )
            for _ in range(stages - 1)
        )
        self.heads = nn.ModuleList(ImageHead(width) for _ in range(stages))
        self.apply(initialise_weights)

    def forward(
        self,
        noise: Tensor,
        sentence: Tensor,
        words: Tensor,
        mask: Tensor | None = None,
        *,
        condition_noise: Tensor | None = None,
        return_attention: bool = False,
    ) -> GeneratorOutput:
        """Make the images of a batch of captions.

        Args:
            noise: (B, noise_dim), standard normal.
            sentence: (B, sentence_dim) sentence features.
            words: (B, T, word_dim) word features.
            mask: (B, T) bool, True where the slot holds a word. ``None``: all slots do.
            condition_noise: (B, condition_dim), standard normal; zeros give the condition's mean. ``None``: drawn
                from torch's default generator, in evaluation mode too.
            return_attention: whether to return the attention of the refinement stages.

        Raises:
            ValueError: ``noise`` isn't (B, noise_dim), or ``mask`` isn't a (B, T) bool tensor.
        """
        if noise.ndim != 2 or noise.shape != (len(sentence), self.noise_dim):
            raise ValueError(f"noise is {tuple(noise.shape)}, expected {(len(sentence), self.noise_dim)}")
        if mask is None:
            mask = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
        if mask.dtype != torch.bool or mask.shape != words.shape[:2]:
            raise ValueError(
                f"mask is {tuple(mask.shape)} {mask.dtype}, expected {tuple(words.shape[:2])} torch.bool (True = word)"
            )
        condition, mu, log_variance = self.conditioning(sentence, condition_noise)
        recompute = self.checkpoint_activations and self.training
        features = self.initial(condition, noise, recompute=recompute)
        images = [self.heads[0](features)]
        attentions = []
        for refine, head in zip(self.refinements, self.heads[1:], strict=True):
            features, attention = refine(features, words, mask, return_attention=return_attention, recompute=recompute)
            images.append(head(features))
            if attention is not None:
                attentions.append(attention)
        return GeneratorOutput(images, attentions, mu, log_variance)

    def first_image(self, noise: Tensor, sentence: Tensor, condition_noise: Tensor) -> Tensor:
        """The first stage's image alone, (B, 3, base, base), which no word takes part in; arguments as in forward."""
        condition, _, _ = self.conditioning(sentence, condition_noise)
        return self.heads[0](self.initial(condition, noise))
