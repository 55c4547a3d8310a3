"""Pretraining of the text and image encoders by the DAMSM losses (AttnGAN, section 3.2), as a run of its own.

The folder is a run folder like that of a training: ``config.yaml``, ``stats.jsonl``, TensorBoard events and
``checkpoints/``; ``best/`` holds the encoders that did best on held-out pictures so far, and ``finished.json`` appears
when pretraining is done. What an interrupted one has done is gone on with by the next call.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kvmgan.config import DamsmOptions
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import to_scales
from kvmgan.data.prefetch import prefetched
from kvmgan.data.samples import Batch
from kvmgan.data.streams import Images, training_stream
from kvmgan.errors import UserError
from kvmgan.files import atomic_folder, write_text
from kvmgan.losses.damsm import damsm_loss
from kvmgan.models.finiteness import is_finite
from kvmgan.models.text_encoder import TextEncoder, word_mask
from kvmgan.parallel import processes
from kvmgan.parallel.batch_norm import spanning
from kvmgan.parallel.exchange import GradientSum, gathered, gathered_on_host
from kvmgan.pretraining.damsm_validation import score_damsm, validation_batches
from kvmgan.pretraining.encoders import EncoderShape, build_image_encoder, build_text_encoder, load_weights, save_damsm
from kvmgan.random_streams import torch_stream
from kvmgan.runs.checkpoint_folder import list_checkpoints, prune, read_header, write_checkpoint
from kvmgan.runs.interruption import Interrupted, SignalGuard
from kvmgan.runs.optimizer_files import optimizer_parts, restore_optimizers
from kvmgan.runs.progress import Progress
from kvmgan.runs.run_folder import RunFolder
from kvmgan.runs.run_log import RunLog, SilentLog, run_log
from kvmgan.storage.tensor_file import load_tensors, save_tensors

# Raise it when the same settings, data and seed come to give other weights: cached encoders are then made anew.
DAMSM_VERSION = 2
LOG_INTERVAL = 50
KEEP_CHECKPOINTS = 2


@dataclass
class DamsmState:
    """Both encoders and their optimiser after ``step`` steps; ``best`` describes the encoders in ``best/``."""

    step: int
    text: TextEncoder
    image: nn.Module
    optimizer: torch.optim.Adam
    best: dict[str, Any] | None = None


def learning_rate(damsm: DamsmOptions, epoch: int) -> float:
    """Learning rate in an epoch (from 0): decays by ``lr_decay`` an epoch down to ``lr_floor`` of the first."""
    return damsm.lr * max(damsm.lr_decay**epoch, damsm.lr_floor)


def damsm_step(state: DamsmState, batch: Batch, damsm: DamsmOptions, size: int, seed: int) -> dict[str, Tensor]:
    """Train both encoders on one batch, which lies on their device; returns the losses by name, detached.

    Dropout is drawn from (seed, step) alone. ``size``: side of the pictures that the image encoder sees [pixels].

    Of several processes each looks at its own pictures and reads the captions of all: dropout is then that of one
    process, every caption is every picture's negative, and the loss of the whole batch is the same in all of them.
    """
    images = to_scales(batch.pixels, (size,))[0]
    tokens, lengths, class_ids = gathered(batch.tokens), gathered_on_host(batch.lengths), batch.class_ids
    mask = word_mask(lengths, tokens.shape[1]).to(tokens.device, non_blocking=True)
    gammas = {"gamma1": damsm.gamma1, "gamma2": damsm.gamma2, "gamma3": damsm.gamma3}
    with torch_stream(batch.tokens.device, seed, "damsm dropout", state.step):
        words, sentence = state.text(tokens, lengths)
    regions, features = map(gathered, state.image(images))
    by_word, by_sentence = damsm_loss((regions, features), words, sentence, mask, gathered(class_ids), **gammas)
    state.optimizer.zero_grad(set_to_none=True)
    (by_word + by_sentence).backward()
    # The text encoder's gradients are those of the whole batch already: averaged, so that none can drift.
    text = GradientSum(state.text.parameters(), scale=1 / processes.count())
    GradientSum(state.image.parameters()).finish()
    text.finish()
    # The whole text encoder, embedding included, as released.
    nn.utils.clip_grad_norm_(state.text.parameters(), damsm.clip)
    state.optimizer.step()
    state.step += 1
    return {"word": by_word.detach(), "sentence": by_sentence.detach()}


class DamsmPretraining:
    """Pretrains the encoders in a folder: from its newest checkpoint, or from the start."""

    def __init__(
        self,
        run: RunFolder,
        train: Images,
        held_out: TextImageDataset,
        damsm: DamsmOptions,
        *,
        size: int,
        seed: int,
        workers: int,
        device: torch.device,
    ):
        self.run_folder, self.damsm, self.size, self.seed, self.device = run, damsm, size, seed, device
        self.vocabulary, self.shape = train.vocabulary, EncoderShape.of(damsm)
        self.stream = training_stream(
            train.limited(damsm.max_words),
            damsm.batch_size,
            seed=seed,
            purpose="damsm",
            workers=workers,
            rows=processes.own_rows(damsm.batch_size).tolist(),
        )
        self.held_out = validation_batches(held_out.limited(damsm.max_words), damsm.validation_images, seed)
        self.total = damsm.epochs * self.stream.steps_per_epoch
        self.state = self._initial()
        self._restore()

    def run(self, guard: SignalGuard) -> None:
        """Train to the end.

        Raises:
            Interrupted: on a signal, after the running step is finished and a checkpoint written.
            UserError: if a loss stops being finite; nothing of that step is written.
        """
        state = self.state
        guard.defer()
        with run_log(self.run_folder, state.step) as log, Progress("damsm", self.total, state.step) as progress:
            for batch in self._batches():
                state.optimizer.param_groups[0]["lr"] = learning_rate(self.damsm, self._epochs_done())
                losses = damsm_step(state, batch, self.damsm, self.size, self.seed)
                progress.advance(processes.count() * len(batch.tokens))
                last = state.step == self.total
                guard.agree()
                if state.step % LOG_INTERVAL == 0 or last:
                    self._log(self._finite(losses), log, progress)
                if self._validation_due() or last:
                    self._finite(losses)
                    self._validate(log)
                    self._save()
                if guard.received and not last:
                    self._finite(losses)
                    self._save()
                    raise Interrupted(guard.received, "the same command goes on with pretraining where it stopped")
        if processes.leads():
            if state.best is None:
                self._keep_best({"step": 0})
            write_text(self.run_folder.path / "finished.json", json.dumps({"step": state.step, "best": state.best}))
        # What the leader has written is read by all.
        processes.wait_for_all()
        guard.resume()
        if guard.received:
            raise Interrupted(guard.received, "pretraining is done and kept; the same command goes on from there")

    def _batches(self) -> Iterator[Batch]:
        wanted = itertools.islice(self.stream.iterate(self.state.step), self.total - self.state.step)
        return prefetched(wanted, self.device)

    def _epochs_done(self) -> int:
        return self.state.step // self.stream.steps_per_epoch

    def _validation_due(self) -> bool:
        steps = self.damsm.validation_interval * self.stream.steps_per_epoch
        return self.state.step % steps == 0

    def _finite(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        values = {name: value.item() for name, value in losses.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(f"the DAMSM {name} loss is {value} at step {self.state.step}: lower --damsm.lr")
        return values

    def _log(self, values: Mapping[str, float], log: RunLog | SilentLog, progress: Progress) -> None:
        lr = self.state.optimizer.param_groups[0]["lr"]
        log.write(self.state.step, {"lr": lr, "images_per_second": progress.items_per_second, **values})
        progress.report(values)

    def _validate(self, log: RunLog | SilentLog) -> None:
        """Score the encoders on held-out pictures, and keep them if they are the best so far."""
        state, damsm = self.state, self.damsm
        if not processes.leads():
            return
        score = score_damsm(state.text, state.image, self.held_out, self.size, gamma1=damsm.gamma1, gamma2=damsm.gamma2)
        figures = {"word_r_precision": score.word, "sentence_r_precision": score.sentence, "r_precision": score.mean}
        log.write(state.step, {f"validation_{name}": value for name, value in figures.items()})
        print(f"damsm validation: R-precision {score.word:.1f} % by words, {score.sentence:.1f} % by sentences")
        # A tie goes to the encoders that were trained longer.
        if state.best is None or score.mean >= state.best["r_precision"]:
            self._keep_best({"step": state.step, "epoch": self._epochs_done(), **figures})

    def _keep_best(self, description: dict[str, Any]) -> None:
        self.state.best = description
        with atomic_folder(self.run_folder.path / "best") as folder:
            save_damsm(folder, self.vocabulary, self.shape, self.state.text, self.state.image)
            write_text(folder / "validation.json", json.dumps(description))

    def _initial(self) -> DamsmState:
        weights = self.damsm.inception_weights or "imagenet"
        with torch_stream(self.device, self.seed, "damsm weights"):
            text = build_text_encoder(self.shape, len(self.vocabulary), self.damsm.dropout).to(self.device)
            image = spanning(build_image_encoder(self.shape, weights)).to(self.device)
        trained = [p for p in itertools.chain(text.parameters(), image.parameters()) if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=self.damsm.lr, betas=self.damsm.betas, fused=True)
        return DamsmState(0, text, image, optimizer)

    def _save(self) -> None:
        if not is_finite(self.state.text, self.state.image):
            raise UserError(f"a DAMSM weight is no longer finite at step {self.state.step}: lower --damsm.lr")
        if not processes.leads():
            return
        write_checkpoint(self.run_folder.checkpoints, self.state.step, self._write_state)
        prune(self.run_folder.checkpoints, KEEP_CHECKPOINTS)

    def _write_state(self, folder: Path) -> dict[str, Any]:
        save_tensors(folder / "text_encoder.safetensors", self.state.text.state_dict())
        save_tensors(folder / "image_encoder.safetensors", self.state.image.state_dict())
        groups, tensors = optimizer_parts({"damsm": self.state.optimizer})
        save_tensors(folder / "optimizer.safetensors", tensors)
        return {"optimizers": groups, "best": self.state.best}

    def _restore(self) -> None:
        """Take the state of the newest checkpoint, if there is one."""
        found = list_checkpoints(self.run_folder.checkpoints)
        if not found:
            return
        header, state = read_header(found[-1]), self.state
        load_weights(state.text, found[-1] / "text_encoder.safetensors")
        load_weights(state.image, found[-1] / "image_encoder.safetensors")
        tensors = load_tensors(found[-1] / "optimizer.safetensors")
        restore_optimizers({"damsm": state.optimizer}, header["optimizers"], tensors)
        state.step, state.best = header["step"], header["best"]
        print(f"damsm: resumed at step {state.step}")


def finished(folder: Path) -> bool:
    """Whether pretraining in ``folder`` came to its end."""
    return (folder / "finished.json").is_file()


def deciding_settings(damsm: DamsmOptions) -> dict[str, Any]:
    """The settings that decide which encoders come out; the place of Inception's weights doesn't."""
    return {name: value for name, value in asdict(damsm).items() if name != "inception_weights"}
