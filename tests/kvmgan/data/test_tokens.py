"""Tokens are those of the released AttnGAN and DM-GAN code."""

import pytest

from kvmgan.data.tokens import tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A small, RED bird.", ["a", "small", "red", "bird"]),
        ("it's 2-toned", ["it", "s", "2", "toned"]),
        ("blue\ufffd\ufffdwings", ["blue", "wings"]),
        ("caf\u00e9 \u9e1f bird", ["caf", "bird"]),
        ("", []),
        (" .,! ", []),
    ],
)
def test_tokenize(text: str, tokens: list[str]) -> None:
    """Lower case, word characters only, pairs of U+FFFD split words, other non-ASCII characters go."""
    assert tokenize(text) == tokens
