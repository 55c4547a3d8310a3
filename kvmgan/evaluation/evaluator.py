"""The metrics of a run: scores of generators, and of real pictures beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kvmgan.config import EvaluationOptions, ModelOptions
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import to_bytes
from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.evaluation.panel import DISTRIBUTIONS, Panel
from kvmgan.evaluation.protocol import common_protocol
from kvmgan.evaluation.real_pictures import see_real
from kvmgan.evaluation.scores.attributes import Attributes
from kvmgan.evaluation.scores.clip_score import ClipScore
from kvmgan.evaluation.scores.distributions import Distributions, shortage
from kvmgan.evaluation.scores.diversity import Diversity
from kvmgan.evaluation.scores.retrieval import Retrieval
from kvmgan.evaluation.scores.score import Score
from kvmgan.metrics.candidates import draw_mismatched
from kvmgan.metrics.evaluation_pairs import draw_pairs
from kvmgan.metrics.extractors import own
from kvmgan.metrics.seen import Seen, Watcher, rows_of, see
from kvmgan.models.generator import Generator
from kvmgan.models.noise_choice import steadiest
from kvmgan.models.weights_digest import weights_digest
from kvmgan.parallel.shares import own_share, together
from kvmgan.pretraining.encoders import Encoders
from kvmgan.random_streams import normal_noise
from kvmgan.runs.progress import Progress
from kvmgan.training.builders import build_generator

# Batches between two lines of progress where no terminal shows a bar.
_REPORTED_BATCHES = 100


class Evaluator:
    """Scores generators by name, and real pictures as ``real``, on captions, candidates and noise drawn once.

    What is seen in the real pictures is kept: judgements on the way of a training cost their generator alone.
    Pictures are judged in 8 bits, as a user saves them. What can't be computed on the data is left out: R-precision,
    with a line on standard output, where all captions are of one class, attributes where none are known.
    """

    def __init__(
        self,
        encoders: Encoders,
        dataset: TextImageDataset,
        truth: AttributeTruth | None,
        judging: EvaluationOptions,
        device: torch.device,
        panel: Panel | None = None,
        cache: Path | None = None,
    ):
        """Draw what is judged.

        Args:
            panel: the metrics and their networks; by default those of a run's own encoders.
            cache: folder for what large networks see in real pictures; None keeps nothing.

        Raises:
            UserError: if there are too few pictures for a metric.
        """
        self.encoders, self.truth, self.judging, self.device = encoders, truth, judging, device
        self.panel, self.cache = panel or Panel(), cache
        self.dataset = dataset.limited(judging.max_words)
        self.pairs = draw_pairs(self.dataset, judging.images, judging.seed)
        self.mismatched = draw_mismatched(self.pairs.class_ids, judging.candidates - 1, judging.seed)
        self.scores = list(self._scores())
        self.diversity = self._diversity()

    def score_average(self, average: Generator, model: ModelOptions, seed: int) -> list[dict[str, Any]]:
        """Score a run's averaged generator as ``ema``; with ``evaluation.untrained`` the one it began as beside it.

        Args:
            model: settings of the generator.
            seed: seed of the random weights of the ``untrained`` one.

        Returns:
            What :meth:`score` does.
        """
        generators = {"ema": average}
        if self.judging.untrained:
            generators["untrained"] = build_generator(model, self.encoders.shape.word_dim, seed).to(self.device)
        return self.score(generators)

    def score(self, generators: Mapping[str, Generator]) -> list[dict[str, Any]]:
        """Score generators and real pictures.

        Returns:
            One row a metric and subject: ``metric``, ``subject``, ``value``, more figures, ``protocol``.
        """
        if self._retrieves and self.mismatched.shape[1] == 0:
            count = len(self.pairs)
            print(f"note: R-precision is left out: all {count} captions are of one class, there is no wrong one")
        watchers = _watchers(self.scores)
        rows = []
        if self.scores:
            seen = {name: together(see(self._pairs_by(one, name), watchers)) for name, one in generators.items()}
            seen["real"] = rows_of(self._real, torch.from_numpy(self.pairs.records))
            rows = [row for score in self.scores for row in score.rows(seen, self._real)]
        if self.diversity is not None:
            drawn = {
                name: together(see(self._draws_by(one, name), self.diversity.watchers))
                for name, one in generators.items()
            }
            rows += self.diversity.rows(drawn, self._real)
        return rows

    @property
    def _retrieves(self) -> bool:
        return "r-precision" in self.panel.metrics

    @cached_property
    def _protocol(self) -> dict[str, Any]:
        return common_protocol(self.judging, truncates=self.panel.truncates)

    @cached_property
    def _features(self) -> Watcher:
        """Whose features distances and diversity are computed on."""
        return self.panel.features or self._damsm

    @cached_property
    def _damsm(self) -> Watcher:
        """The run's own image encoder."""
        return own.damsm(self.encoders.image)

    def _scores(self) -> Iterator[Score]:
        """Every score of the panel that the data has something for."""
        panel, pairs = self.panel, self.pairs
        records = [self.dataset.records[record] for record in pairs.records]
        sizes = len(pairs), len(self.dataset)
        distances = list(self._computable(sizes))
        if distances:
            yield Distributions(self._features, distances, panel.protocol, *sizes, self._protocol)
        if panel.dinov2 is not None:
            yield Distributions(panel.dinov2, ["fd-dinov2"], "dinov2", *sizes, self._protocol)
        if panel.clip is not None:
            captions = [record.captions[which] for record, which in zip(records, pairs.captions, strict=True)]
            yield ClipScore(panel.clip, captions, self._protocol)
        if self._retrieves and self.mismatched.shape[1] > 0:
            text = {"text_encoder_weights": weights_digest(self.encoders.text)}
            yield Retrieval(self._damsm, self._sentences(), self.mismatched, self.judging.folds, self._protocol | text)
        if "attributes" in panel.metrics and self.truth is not None and self.encoders.classifier is not None:
            watcher = own.attributes(self.encoders.classifier)
            yield Attributes(watcher, records, pairs.captions, self.truth, self._protocol)

    def _computable(self, sizes: tuple[int, int]) -> Iterator[str]:
        """The panel's distances and their like; of a lenient panel those that there are pictures enough for."""
        for name in self.panel.metrics:
            if name in DISTRIBUTIONS:
                wanting = shortage(name, *sizes) if self.panel.lenient else None
                if wanting is None:
                    yield name
                else:
                    print(f"note: {name} is left out: it {wanting}")

    def _diversity(self) -> Diversity | None:
        panel = self.panel
        if "diversity" not in panel.metrics:
            return None
        class_ids = np.array([record.class_id for record in self.dataset.records])
        captions = min(panel.captions, len(self.pairs))
        return Diversity(self._features, captions, panel.draws, class_ids, self._protocol | {"name": panel.protocol})

    def _sentences(self) -> Tensor:
        """Sentence features of every pair's caption, (N, D) on the host."""
        size, pairs = self.judging.batch_size, self.pairs
        batches = zip(pairs.tokens.split(size), pairs.lengths.split(size), strict=True)
        return torch.cat([self.encoders.encode(tokens, lengths)[1].cpu() for tokens, lengths in batches])

    def _pairs_by(self, generator: Generator, name: str) -> Iterator[Tensor]:
        """A picture of every pair's caption."""
        return self._pictures(generator, name, self.pairs.tokens, self.pairs.lengths, "evaluation noise")

    def _draws_by(self, generator: Generator, name: str) -> Iterator[Tensor]:
        """The diversity's captions, each drawn several times in a row."""
        rows = torch.arange(self.diversity.captions).repeat_interleave(self.diversity.draws)
        tokens, lengths = self.pairs.tokens[rows], self.pairs.lengths[rows]
        return self._pictures(generator, f"{name}, diversity", tokens, lengths, "diversity noise")

    @torch.no_grad()
    def _pictures(
        self, generator: Generator, name: str, tokens: Tensor, lengths: Tensor, purpose: str
    ) -> Iterator[Tensor]:
        """This process's share of a generator's last pictures, in batches (b, 3, s, s) uint8; noise by the purpose."""
        generator.eval()
        drawn = self._noises(generator, len(tokens), purpose)
        shares = [own_share(tensor) for tensor in (tokens, lengths, *drawn)]
        batches = list(zip(*(share.split(self.judging.batch_size) for share in shares if len(share)), strict=True))
        with Progress(f"evaluate {name}", len(batches)) as progress:
            for tokens, lengths, noises, condition in batches:
                words, sentence, mask = self.encoders.encode(tokens, lengths)
                noise = steadiest(generator, noises, sentence, condition)
                images = generator(noise, sentence, words, mask, condition_noise=condition).images[-1]
                yield to_bytes(images, truncate=self.panel.truncates)
                progress.advance(len(tokens))
                if progress.done % _REPORTED_BATCHES == 0:
                    progress.report({})

    def _noises(self, generator: Generator, count: int, purpose: str) -> tuple[Tensor, Tensor]:
        """Noises (count, tries, Z) to choose from and the noise of the condition (count, C)."""
        dims, seed = (generator.noise_dim, generator.condition_dim), self.judging.seed
        noise, condition = normal_noise((count, sum(dims)), seed, purpose).to(self.device).split(dims, dim=1)
        # Further ones of their own: with one try nothing is drawn but what it takes.
        further = normal_noise((count, self.judging.tries - 1, dims[0]), seed, f"{purpose}, further tries")
        return torch.cat((noise[:, None], further.to(self.device)), dim=1), condition

    @cached_property
    def _real(self) -> Seen:
        """What is seen in every test picture."""
        watchers = _watchers([*self.scores, *([self.diversity] if self.diversity is not None else [])])
        panel = self.panel
        large = {one.name for one in (panel.features, panel.dinov2, panel.clip and panel.clip.watcher) if one}
        return see_real(
            self.dataset,
            watchers,
            [watcher for watcher in watchers if watcher.name in large],
            batch_size=self.judging.batch_size,
            device=self.device,
            cache=self.cache,
        )


def _watchers(scores: Iterable[Score]) -> list[Watcher]:
    """The networks that the scores need, each once."""
    return list({watcher.name: watcher for score in scores for watcher in score.watchers}.values())
