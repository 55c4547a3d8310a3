"""Captions to tokens, as the released AttnGAN and DM-GAN code does it."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")


def tokenize(text: str) -> list[str]:
    """Return the lower-case words of `text`: runs of letters, digits and underscores, without non-ASCII characters.

    A pair of U+FFFD (two undecodable bytes in the CUB captions) counts as a space; words that become empty are dropped.
    """
    words = _WORD.findall(text.replace("\ufffd\ufffd", " ").lower())
    ascii_words = (word if word.isascii() else word.encode("ascii", "ignore").decode("ascii") for word in words)
    return [word for word in ascii_words if word]
