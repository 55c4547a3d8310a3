"""The DAMSM text encoder (AttnGAN, section 3.2)."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kvmgan.errors import UserError


def word_mask(lengths: Tensor, max_words: int) -> Tensor:
    """Which slots hold a word: (B, max_words) bool from lengths (B,)."""
    return torch.arange(max_words, device=lengths.device) < lengths[:, None]


class TextEncoder(nn.Module):
    """Bidirectional LSTM from tokens to word features and a sentence feature.

    Parameters are named as in the released DAMSM encoders (``encoder.weight``, ``rnn.*``).

    Args:
        vocabulary_size: number of words, with padding at index 0.
        embedding_dim: length of a word embedding.
        word_dim: length D of a word feature and of the sentence feature, half from each direction.
        dropout: probability at which an element of an embedding is dropped in training mode.

    Raises:
        UserError: ``word_dim`` is odd.
    """

    def __init__(
        self, vocabulary_size: int, *, embedding_dim: int = 300, word_dim: int = 256, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if word_dim % 2:
            raise UserError(f"word_dim is {word_dim}, expected an even number (half from each direction)")
        self.encoder = nn.Embedding(vocabulary_size, embedding_dim)
        self.drop = nn.Dropout(dropout)
        self.rnn = nn.LSTM(embedding_dim, word_dim // 2, batch_first=True, bidirectional=True)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return words (B, T, D), zero at padding, and sentence (B, D): the last state of each direction.

        Args:
            tokens: (B, T) int64. What stands at or after a caption's length has no effect.
            lengths: (B,) int64, from 1 to T, in any order; on the host, where packing needs them.

        Raises:
            ValueError: ``tokens`` isn't (B, T), or a length is out of range.
        """
        if tokens.ndim != 2 or lengths.shape != tokens.shape[:1]:
            raise ValueError(
                f"tokens is {tuple(tokens.shape)} and lengths {tuple(lengths.shape)}, expected (B, T) and (B,)"
            )
        max_words = tokens.shape[1]
        host_lengths = lengths.tolist()
        if min(host_lengths) < 1 or max(host_lengths) > max_words:
            raise ValueError(f"lengths has values {host_lengths}, expected 1 to {max_words}")
        embedded = self.drop(self.encoder(tokens))
        packed = pack_padded_sequence(embedded, host_lengths, batch_first=True, enforce_sorted=False)
        states, (last_states, _) = self.rnn(packed)
        words, _ = pad_packed_sequence(states, batch_first=True, total_length=max_words)
        return words, last_states.transpose(0, 1).flatten(1)
