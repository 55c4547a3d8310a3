"""Pretraining of the text and image encoders by the DAMSM losses (AttnGAN, section 3.2)."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from kvmgan.config import DamsmOptions, Options
from kvmgan.data.batches import BatchStream
from kvmgan.data.dataset import Batch, TextImageDataset
from kvmgan.errors import UserError
from kvmgan.losses.damsm import sentence_loss, word_loss
from kvmgan.models.text_encoder import TextEncoder
from kvmgan.training.builders import build_image_encoder, build_text_encoder
from kvmgan.training.progress import Progress

REPORT_INTERVAL = 100


def damsm_loss(
    image_encoder: nn.Module,
    images: torch.Tensor,
    words: torch.Tensor,
    sentence: torch.Tensor,
    batch: Batch,
    options: DamsmOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Word loss and sentence loss of images (B, 3, s, s) against the batch's words (B, T, D) and sentences (B, D)."""
    regions, features = image_encoder(images)
    by_word = word_loss(
        regions,
        words,
        batch.mask,
        batch.class_ids,
        gamma1=options.gamma1,
        gamma2=options.gamma2,
        gamma3=options.gamma3,
    )
    return by_word, sentence_loss(features, sentence, batch.class_ids, gamma3=options.gamma3)


def learning_rate(options: DamsmOptions, epoch: int) -> float:
    """Learning rate in an epoch (from 0): decays by ``lr_decay`` an epoch down to ``lr_floor`` of the first."""
    return options.lr * max(options.lr_decay**epoch, options.lr_floor)


def pretrain_damsm(
    dataset: TextImageDataset, vocabulary_size: int, options: Options, device: torch.device
) -> tuple[TextEncoder, nn.Module]:
    """Train both encoders for ``damsm.steps`` steps; returns them frozen and in evaluation mode.

    Raises:
        UserError: if the loss stops being finite.
    """
    damsm = options.damsm
    stream = BatchStream(dataset, damsm.batch_size, seed=options.training.seed, workers=options.data.workers)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.training.seed)
        text = build_text_encoder(options, vocabulary_size).to(device)
        image = build_image_encoder(options, pretrained=True).to(device)
        trained = [p for p in itertools.chain(text.parameters(), image.parameters()) if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=damsm.lr, betas=damsm.betas)
        with Progress("damsm", damsm.steps) as progress:
            for step, batch in zip(range(damsm.steps), stream.iterate(0), strict=False):
                optimizer.param_groups[0]["lr"] = learning_rate(damsm, step // stream.steps_per_epoch)
                batch = batch.to(device)
                words, sentence = text(batch.tokens, batch.lengths)
                by_word, by_sentence = damsm_loss(image, batch.images[-1], words, sentence, batch, damsm)
                optimizer.zero_grad(set_to_none=True)
                (by_word + by_sentence).backward()
                nn.utils.clip_grad_norm_(text.rnn.parameters(), damsm.clip)
                optimizer.step()
                progress.advance(len(batch.tokens))
                if (step + 1) % REPORT_INTERVAL == 0 or step + 1 == damsm.steps:
                    _report(progress, by_word.item(), by_sentence.item())
    return text.eval().requires_grad_(False), image.eval().requires_grad_(False)


def _report(progress: Progress, by_word: float, by_sentence: float) -> None:
    if not torch.isfinite(torch.tensor(by_word + by_sentence)):
        raise UserError(f"the DAMSM loss is no longer finite at step {progress.done}: lower --damsm.lr")
    progress.report({"word": by_word, "sentence": by_sentence})
