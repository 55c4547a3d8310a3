"""Training of the attribute classifier on real drawings."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kvmgan.config import Options
from kvmgan.data.batches import BatchStream
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.metrics.attribute_accuracy import attribute_targets
from kvmgan.models.attribute_classifier import AttributeClassifier
from kvmgan.training.progress import Progress

REPORT_INTERVAL = 100


def train_classifier(
    dataset: TextImageDataset, truth: AttributeTruth, options: Options, device: torch.device
) -> AttributeClassifier:
    """Train on the drawings of ``dataset`` with the summed cross-entropy of all attributes; returns it frozen."""
    settings = options.classifier
    targets = {name: values.to(device) for name, values in attribute_targets(dataset.records, truth).items()}
    stream = BatchStream(dataset, settings.batch_size, seed=options.training.seed, workers=options.data.workers)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.training.seed)
        cardinalities = {name: len(values) for name, values in truth.values.items()}
        classifier = AttributeClassifier(cardinalities, width=settings.width).to(device)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=settings.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(settings.steps, 1))
        with Progress("attribute classifier", settings.steps) as progress:
            for step, batch in zip(range(settings.steps), stream.iterate(0), strict=False):
                batch = batch.to(device)
                logits = classifier(batch.images[-1])
                loss = sum(F.cross_entropy(logits[name], targets[name][batch.indices]) for name in cardinalities)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.advance(len(batch.tokens))
                if (step + 1) % REPORT_INTERVAL == 0 or step + 1 == settings.steps:
                    progress.report({"loss": loss.item()})
    return classifier.eval().requires_grad_(False)
