"""The text encoder."""

import pytest
import torch

from kvmgan.errors import UserError
from kvmgan.models.text_encoder import TextEncoder, word_mask


@pytest.fixture
def encoder() -> TextEncoder:
    return TextEncoder(20, embedding_dim=6, word_dim=8).eval()


@pytest.fixture
def tokens():
    return torch.randint(1, 20, (4, 7))


LENGTHS = torch.tensor([3, 7, 1, 5])


def test_word_mask():
    assert word_mask(torch.tensor([2, 0, 3]), 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]


@torch.no_grad()
def test_words_are_zero_at_padding_and_padding_tokens_change_nothing(encoder, tokens):
    words, sentence = encoder(tokens, LENGTHS)
    mask = word_mask(LENGTHS, 7)
    assert words.shape == (4, 7, 8)
    assert sentence.shape == (4, 8)
    assert not words[~mask].any()
    assert words[mask].all()
    other_words, other_sentence = encoder(torch.where(mask, tokens, 0), LENGTHS)
    assert torch.equal(words, other_words)
    assert torch.equal(sentence, other_sentence)


@torch.no_grad()
def test_captions_are_read_one_by_one_in_any_order_of_lengths(encoder, tokens):
    words, sentence = encoder(tokens, LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        alone_words, alone_sentence = encoder(tokens[i : i + 1, :length], LENGTHS[i : i + 1])
        torch.testing.assert_close(alone_words[0], words[i, :length])
        torch.testing.assert_close(alone_sentence[0], sentence[i])


@torch.no_grad()
def test_sentence_is_the_last_state_of_each_direction(encoder, tokens):
    """Forward the state at the last word, backward the state at the first."""
    words, sentence = encoder(tokens, LENGTHS)
    forward_last = words[torch.arange(4), LENGTHS - 1, :4]
    torch.testing.assert_close(sentence, torch.cat((forward_last, words[:, 0, 4:]), dim=1))


def test_dropout_only_in_training(encoder, tokens):
    assert torch.equal(encoder(tokens, LENGTHS)[1], encoder(tokens, LENGTHS)[1])
    encoder.train()
    assert not torch.equal(encoder(tokens, LENGTHS)[1], encoder(tokens, LENGTHS)[1])


def test_gradients_reach_every_parameter(encoder, tokens):
    words, sentence = encoder(tokens, LENGTHS)
    (words.square().sum() + sentence.sum()).backward()
    assert all(parameter.grad.any() for parameter in encoder.parameters())


def test_bad_input_is_named(encoder, tokens):
    with pytest.raises(UserError, match="word_dim is 7"):
        TextEncoder(20, word_dim=7)
    with pytest.raises(ValueError, match=r"lengths has values \[3, 0, 1, 5\], expected 1 to 7"):
        encoder(tokens, torch.tensor([3, 0, 1, 5]))
    with pytest.raises(ValueError, match="expected 1 to 7"):
        encoder(tokens, torch.tensor([3, 8, 1, 5]))
    with pytest.raises(ValueError, match=r"tokens is \(4, 7\) and lengths \(3,\)"):
        encoder(tokens, LENGTHS[:3])
