"""A transformer encoder whose blocks read a bank of learned memories between attention and feed-forward layers.

Tokens (B, N, C) are the layer's image with channels last; the bank's entries are its words. What is written follows the
mean of all tokens, so it isn't causal. `python examples/memory_transformer.py` trains it to name each word's partner.
"""

import torch
from torch import Tensor, nn

import kvmem

PAIRS = torch.randperm(32, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """Self-attention, memory, feed-forward, of tokens (B, N, C) and a bank (K, D)."""

    def __init__(self, channels: int, entry_channels: int, heads: int = 4):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.memory = kvmem.KVMemoryLayer(channels, entry_channels, channel_dim=-1)
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, tokens: Tensor, bank: Tensor) -> Tensor:
        x = self.norms[0](tokens)
        tokens = tokens + self.attention(x, x, x, need_weights=False)[0]
        entries = bank.expand(len(tokens), -1, -1)
        tokens = tokens + self.memory(self.norms[1](tokens), entries)
        return tokens + self.feed_forward(self.norms[2](tokens))


class Transformer(nn.Module):
    """Tokens (B, N) to logits (B, N, vocabulary)."""

    def __init__(self, vocabulary: int = 32, channels: int = 32, entries: int = 16, blocks: int = 2):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, channels)
        self.bank = nn.Parameter(torch.randn(entries, channels))
        self.blocks = nn.ModuleList(Block(channels, channels) for _ in range(blocks))
        self.head = nn.Linear(channels, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.bank)
        return self.head(x)


def train(steps: int = 150) -> list[float]:
    """Cross-entropies, step by step [nats]."""
    torch.manual_seed(0)
    model = Transformer()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        words = torch.randint(32, (16, 12))
        logits = model(words)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), PAIRS[words].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    entropies = train()
    print(f"cross-entropy: {entropies[0]:.2f} at first, {entropies[-1]:.3f} at last; guessing has 3.47")
