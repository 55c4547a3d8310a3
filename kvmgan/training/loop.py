"""The training loop: steps, statistics, pictures, checkpoints, and a clean stop on a signal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from kvmgan.config import Options
from kvmgan.data.batches import BatchStream
from kvmgan.data.dataset import Batch
from kvmgan.errors import UserError
from kvmgan.training.checkpoint import list_checkpoints, save_checkpoint
from kvmgan.training.datasets import Splits
from kvmgan.training.encoders import Encoders
from kvmgan.training.interruption import Interrupted, SignalGuard
from kvmgan.training.progress import Progress
from kvmgan.training.run_folder import RunFolder
from kvmgan.training.sampling import FixedSamples, fixed_samples
from kvmgan.training.state import TrainingState
from kvmgan.training.step import training_step


class Loop:
    """Trains ``state`` to ``training.steps`` and keeps the run folder up to date."""

    def __init__(
        self,
        run: RunFolder,
        options: Options,
        state: TrainingState,
        splits: Splits,
        encoders: Encoders,
        device: torch.device,
    ):
        self.run_folder, self.options, self.state, self.encoders, self.device = run, options, state, encoders, device
        training = options.training
        self.stream = BatchStream(splits.train, training.batch_size, seed=training.seed, workers=options.data.workers)
        self.samples: FixedSamples = fixed_samples(splits.test, encoders, options, device)

    def run(self, guard: SignalGuard) -> None:
        """Train to the end; pictures and a checkpoint of the last step are written in any case.

        Raises:
            Interrupted: on a signal, after the running step is finished and a checkpoint written.
            UserError: if a loss or a weight stops being finite; nothing of that step is written.
        """
        training, state = self.options.training, self.state
        self.run_folder.drop_stats_after(state.step)
        guard.defer()
        with (
            SummaryWriter(self.run_folder.path, purge_step=state.step + 1) as writer,
            Progress("train", training.steps, state.step) as progress,
        ):
            if state.step == 0:
                self.samples.save(state.average.model, self.run_folder, 0)
            for batch in self._batches():
                losses = training_step(state, batch, self.encoders, self.options)
                progress.advance(len(batch.tokens))
                last = state.step == training.steps
                if state.step % training.log_interval == 0 or last:
                    self._log(losses, writer, progress)
                if state.step % training.checkpoint_interval == 0 or last or guard.received:
                    self._save(losses)
                if state.step % training.sample_interval == 0 or last:
                    self._check(losses)
                    self.samples.save(state.average.model, self.run_folder, state.step)
                if guard.received and not last:
                    raise Interrupted(guard.received, f"continue with --resume {self.run_folder.path}")
        guard.resume()

    def _batches(self) -> Iterator[Batch]:
        left = self.options.training.steps - self.state.step
        for _, batch in zip(range(left), self.stream.iterate(self.state.step), strict=False):
            yield batch.to(self.device)

    def _log(self, losses: dict[str, Tensor], writer: SummaryWriter, progress: Progress) -> None:
        values = self._check(losses)
        step, speed = self.state.step, progress.items_per_second
        self.run_folder.append_stats(
            {"step": step, "time": round(time.time(), 3), "images_per_second": speed, **values}
        )
        for name, value in values.items():
            writer.add_scalar(f"train/{name}", value, step)
        writer.add_scalar("speed/images_per_second", speed, step)
        last = self.options.sizes[-1]
        progress.report({name: values[name] for name in (f"d{last}", f"g{last}", "damsm_word", "damsm_sentence", "kl")})

    def _check(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """The losses as numbers."""
        values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            self._give_up(f"loss {wrong[0]} is {values[wrong[0]]}")
        return values

    def _save(self, losses: dict[str, Tensor]) -> None:
        self._check(losses)
        if not self.state.is_finite():
            self._give_up("a weight is no longer finite")
        save_checkpoint(self.run_folder.checkpoints, self.state, self.encoders, self.options)

    def _give_up(self, reason: str) -> None:
        good = list_checkpoints(self.run_folder.checkpoints)
        way = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written yet"
        raise UserError(
            f"training diverged at step {self.state.step}: {reason}; {way}; "
            "lower --training.lr-generator and --training.lr-discriminator"
        )
