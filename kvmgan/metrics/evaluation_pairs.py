"""The pairs of a test picture and a caption that metrics are computed on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kvmgan.data.dataset import TextImageDataset
from kvmgan.random_streams import numpy_stream


@dataclass(frozen=True)
class EvaluationPairs:
    """N pairs of a test record and one of its captions.

    records, captions, class_ids: (N,) int64, position in ``dataset.records``, which of its captions, and its class.
    tokens: (N, T) int64, 0 is padding. lengths: (N,) int64, words of each caption. Both are on the host.
    """

    records: np.ndarray
    captions: np.ndarray
    class_ids: np.ndarray
    tokens: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.records)


def draw_pairs(dataset: TextImageDataset, count: int, seed: int) -> EvaluationPairs:
    """Draw ``count`` pairs: every record once in random order, then again, each time with a random usable caption.

    A pair depends on the data, the seed and its place alone, not on ``count``.
    """
    records, captions = [], []
    for number in range(-(-count // len(dataset))):
        rng = numpy_stream(seed, "evaluation pairs", number)
        order, which = rng.permutation(len(dataset)), rng.random(len(dataset))
        usable = [dataset.usable_captions(record) for record in order.tolist()]
        records.append(order)
        captions.append([own[int(part * len(own))] for own, part in zip(usable, which.tolist(), strict=True)])
    records, captions = np.concatenate(records)[:count], np.concatenate(captions)[:count]
    encoded = [dataset.encode_caption(r, c) for r, c in zip(records.tolist(), captions.tolist(), strict=True)]
    return EvaluationPairs(
        records,
        captions,
        np.array([dataset.records[record].class_id for record in records.tolist()]),
        torch.stack([tokens for tokens, _ in encoded]),
        torch.tensor([length for _, length in encoded]),
    )
