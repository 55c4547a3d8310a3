"""Words masked in the order of the released code, against its own statements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvmgan.models.generator import Generator
from kvmgan.models.refinement import RefinementStage


def released_attention(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Attention (B, T, H, W) of positions (B, C, H, W) over words (B, C, T), line by line as released.

    There ``mask`` is True where a slot holds no word.
    """
    batch, _, height, width = queries.shape
    slots, positions = keys.shape[2], height * width
    rows = torch.bmm(queries.flatten(2).transpose(1, 2), keys).view(batch * positions, slots)
    rows = rows.masked_fill(mask.repeat(positions, 1), float("-inf")).softmax(dim=1)
    return rows.view(batch, positions, slots).transpose(1, 2).reshape(batch, slots, height, width)


@pytest.fixture
def features() -> Tensor:
    return torch.randn(4, 6, 3, 5)


@torch.no_grad()
def test_attention_is_that_of_the_release(captions, features):
    """AttnGAN's: what the residual blocks get is the features and their context."""
    stage = RefinementStage(6, 12, refinement="attention", residual_blocks=1, legacy_mask=True).eval()
    _, attention = stage(features, captions.words, captions.mask, return_attention=True)
    embedded = torch.einsum("cd,btd->bct", stage.attention.conv_context.weight[:, :, 0, 0], captions.words)
    torch.testing.assert_close(attention, released_attention(features, embedded, ~captions.mask))


@torch.no_grad()
def test_memory_is_that_of_the_release(captions, features):
    """DM-GAN's: the memory is written for every slot, and addressed with the masks of a batch tiled over positions."""
    stage = RefinementStage(6, 12, residual_blocks=1, legacy_mask=True).eval()
    layer, words = stage.memory, captions.words * captions.mask[:, :, None]
    seen = []
    stage.residual[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    _, attention = stage(features, words, captions.mask, return_attention=True)

    mean = features.mean(dim=(2, 3))[:, None]
    gate = (layer.gate_word(words) + layer.gate_image(mean)).sigmoid()
    memory = gate * layer.write_word(words).relu() + (1 - gate) * layer.write_image(mean).relu()
    keys, values = layer.key(memory).relu(), layer.value(memory).relu()
    addresses = released_attention(features, keys.transpose(1, 2), ~captions.mask)
    torch.testing.assert_close(attention, addresses)
    read = torch.einsum("bthw,btc->bchw", addresses, values)
    response = layer.response_gate(torch.cat((features, read), dim=1).movedim(1, 3)).sigmoid().movedim(3, 1)
    torch.testing.assert_close(seen[0], response * read + (1 - response) * features)


@torch.no_grad()
@pytest.mark.parametrize("refinement", ["memory", "attention", "none"])
def test_alone_a_picture_is_the_right_one(captions, refinement):
    """In a batch of one; in a batch of four it is another, unless no word is looked at."""
    sizes = {"stages": 2, "base_size": 16, "width": 4, "noise_dim": 6, "condition_dim": 5, "residual_blocks": 1}
    options = {**sizes, "sentence_dim": 12, "word_dim": 12, "refinement": refinement}
    right, legacy = Generator(**options).eval(), Generator(**options, legacy_mask=True).eval()
    legacy.load_state_dict(right.state_dict())
    noise, drawn = torch.randn(4, 6), torch.zeros(4, 5)
    given = noise, captions.sentence, captions.words, captions.mask
    whole = right(*given, condition_noise=drawn).images[-1]
    for row in range(4):
        alone = legacy(*(tensor[row : row + 1] for tensor in given), condition_noise=drawn[:1]).images[-1]
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-4, atol=1e-5)
    together = legacy(*given, condition_noise=drawn).images[-1]
    assert torch.allclose(together, whole, atol=1e-5) == (refinement == "none")


@torch.no_grad()
def test_without_a_mask_every_slot_holds_a_word(captions):
    """None is a mask of ones."""
    generator = Generator(stages=2, base_size=16, width=4, noise_dim=6, condition_dim=5, sentence_dim=12, word_dim=12)
    given, drawn = (torch.randn(4, 6), captions.sentence, captions.words), torch.zeros(4, 5)
    every = torch.ones_like(captions.mask)
    generator.eval()
    images = generator(*given, condition_noise=drawn).images
    assert torch.equal(images[-1], generator(*given, every, condition_noise=drawn).images[-1])
