"""CLIPScore: does a picture show what its caption says, by CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from kvmgan.evaluation.protocol import of_watcher
from kvmgan.evaluation.scores.score import Row
from kvmgan.metrics.extractors.huggingface import TextImageWatcher
from kvmgan.metrics.metric_rows import metric_row
from kvmgan.metrics.seen import Seen


class ClipScore:
    """``clip_score`` of every subject: the mean of 100 · max(cosine, 0) over pairs (torchmetrics' scale)."""

    def __init__(self, clip: TextImageWatcher, captions: Sequence[str], protocol: Row):
        """Judge the picture of pair i by ``captions[i]``, the whole caption."""
        self.watchers = [clip.watcher]
        self._captions = clip.embed(captions)
        self._protocol = protocol | {"name": "clip"} | of_watcher(clip.watcher) | {"max_words": "all"}

    def rows(self, seen: Mapping[str, Seen], real: Seen) -> list[Row]:
        """One row a subject."""
        rows = []
        for subject, pictures in seen.items():
            cosines = torch.einsum("nd,nd->n", pictures[f"{self.watchers[0].name}.embedding"], self._captions)
            rows.append(metric_row("clip_score", subject, 100 * cosines.clamp_min(0).mean().item(), {}, self._protocol))
        return rows
