"""The training loop: steps, statistics, pictures, checkpoints, judgements, and a clean stop on a signal."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from kvmgan.config import Options, flatten
from kvmgan.data.pixels import to_bytes
from kvmgan.data.prefetch import prefetched
from kvmgan.data.samples import Batch
from kvmgan.data.streams import training_stream
from kvmgan.errors import UserError
from kvmgan.evaluation.evaluator import Evaluator
from kvmgan.figures.pictures import save_png
from kvmgan.files import read_json, write_text
from kvmgan.metrics.metric_rows import append_metrics, format_metrics
from kvmgan.models.inference import for_inference
from kvmgan.parallel import processes
from kvmgan.parallel.exchange import summed, take_buffers_of_leader
from kvmgan.pretraining.encoders import Encoders
from kvmgan.runs.background import BackgroundWriter
from kvmgan.runs.checkpoint_folder import list_checkpoints, prune
from kvmgan.runs.interruption import Interrupted, SignalGuard
from kvmgan.runs.profiling import StepProfile
from kvmgan.runs.progress import Progress
from kvmgan.runs.run_folder import RunFolder
from kvmgan.runs.run_log import run_log
from kvmgan.runs.spans import span
from kvmgan.training.checkpoint import save_checkpoint, snapshot
from kvmgan.training.datasets import Splits
from kvmgan.training.nearest_pictures import nearest_figure
from kvmgan.training.precision import Precision
from kvmgan.training.run_pictures import RunPictures
from kvmgan.training.state import TrainingState
from kvmgan.training.step import TrainingStep

# Samples beside which the nearest training pictures are shown.
NEAREST_ROWS = 6


class Loop:
    """Context that trains ``state`` to ``training.steps``, keeps the run folder up to date and judges the average."""

    def __init__(
        self,
        run: RunFolder,
        options: Options,
        state: TrainingState,
        splits: Splits,
        encoders: Encoders,
        precision: Precision,
        profiled_steps: int = 0,
        wandb: str | None = None,
    ):
        self.run_folder, self.options, self.training = run, options, options.training
        self.state, self.splits, self.encoders, self.device = state, splits, encoders, precision.device
        self.step = TrainingStep(encoders, options.training, options.damsm, precision)
        self.pictures = RunPictures(
            splits.test.limited(options.evaluation.max_words),
            encoders,
            (options.model.noise_dim, options.model.condition_dim),
            count=options.training.sample_count,
            seed=options.training.seed,
        )
        self.evaluator = Evaluator(encoders, splits.test, splits.truth, options.evaluation, precision.device)
        self.writer = BackgroundWriter()
        self.log = run_log(run, state.step, wandb, flatten(options))
        self.profiled_steps = profiled_steps if processes.leads() else 0
        self.best_file = run.path / "best.json"
        self.best = read_json(self.best_file, "the best checkpoint's score") if self.best_file.exists() else None

    def __enter__(self) -> Loop:
        self.log.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.log.__exit__(*exception)
        self.writer.finish()

    def run(self, guard: SignalGuard) -> None:
        """Train to the end; pictures and a checkpoint of the last step are written in any case.

        Raises:
            Interrupted: on a signal, after the running step is finished and a checkpoint written.
            UserError: if too many steps in a row aren't finite; nothing of them is written.
        """
        state, training = self.state, self.training
        guard.defer()
        with (
            Progress("train", training.steps, state.step) as progress,
            StepProfile(self.profiled_steps, self.run_folder.path) as profile,
        ):
            if state.step == 0:
                with progress.paused():
                    self._draw()
            for batch in self._batches():
                losses = self.step(state, batch)
                progress.advance(processes.count() * len(batch.tokens))
                profile.step()
                self._after_step(losses, guard, progress)
        guard.message = f"training is done; for the metrics: python -m kvmgan.evaluate {self.run_folder.path}"
        guard.resume()
        if guard.received:
            raise Interrupted(guard.received, guard.message)

    def judge(self) -> None:
        """Score the average, keep the figures, and remember its checkpoint if it is the best so far."""
        state, name = self.state, self.training.best_metric
        if not self.training.sync_batch_norm:
            # All draw their shares with the model that the leader writes.
            take_buffers_of_leader(state.average.model)
        rows = self.evaluator.score_average(for_inference(state.average.model), self.options.model, self.training.seed)
        if processes.leads():
            append_metrics(self.run_folder.metrics, rows, state.step)
        self.log.write(state.step, {f"{row['metric']}_{row['subject']}": row["value"] for row in rows})
        print(format_metrics(rows), flush=True)
        for row in rows:
            better = self.best is None or row["value"] > self.best["value"]
            if row["metric"] == name and row["subject"] == "ema" and better:
                self.best = {"metric": name, "value": row["value"], "step": state.step}
                if processes.leads():
                    write_text(self.best_file, json.dumps(self.best))

    def draw_nearest(self) -> None:
        """Write the training pictures that the first samples are nearest to, by the process that leads."""
        if not processes.leads():
            return
        samples, step = self.pictures.samples, self.state.step
        images = to_bytes(samples.draw(self.state.average.model).images[-1][:NEAREST_ROWS])
        captions = samples.captions[:NEAREST_ROWS]
        figure = nearest_figure(images, captions, self.splits.train, self.encoders.image, self.device)
        save_png(figure, self.run_folder.nearest / f"step-{step:06d}.png")
        self.log.show(step, self.run_folder.nearest.name, figure)

    def _batches(self) -> Iterator[Batch]:
        training = self.training
        workers = self.options.data.workers
        stream = training_stream(
            self.splits.train,
            training.batch_size,
            seed=training.seed,
            purpose="training",
            workers=workers,
            rows=processes.own_rows(training.batch_size, training.accumulation).tolist(),
        )
        wanted = itertools.islice(stream.iterate(self.state.step), training.steps - self.state.step)
        batches = prefetched(wanted, self.device)
        while True:
            with span("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _after_step(self, losses: dict[str, Tensor], guard: SignalGuard, progress: Progress) -> None:
        step, training = self.state.step, self.training
        guard.agree()
        last = step == training.steps
        # The last step is judged by whoever called, after training's own end.
        judged = training.evaluate_interval > 0 and step % training.evaluate_interval == 0 and not last
        if step % training.log_interval == 0 or last:
            self._write_losses(losses, progress)
        kept = training.keep_interval > 0 and step % training.keep_interval == 0
        if step % training.checkpoint_interval == 0 or last or judged or kept or guard.received:
            self._save(losses)
        if step % training.sample_interval == 0 or last:
            with progress.paused():
                self._draw()
        if guard.received or judged or last:
            self.writer.finish()
        if guard.received and not last:
            raise Interrupted(guard.received, f"continue with --resume {self.run_folder.path}")
        if judged:
            # A checkpoint of this step is there: a signal may stop the judgement at once.
            guard.message = f"continue with --resume {self.run_folder.path}"
            guard.resume()
            with progress.paused():
                self.judge()
            guard.defer()

    def _write_losses(self, losses: dict[str, Tensor], progress: Progress) -> None:
        values = self._on_host(losses)
        speed = progress.items_per_second
        self.log.write(self.state.step, {"images_per_second": speed, **values})
        last = self.options.sizes[-1]
        progress.report({name: values[name] for name in (f"d{last}", f"g{last}", "damsm_word", "damsm_sentence", "kl")})

    def _on_host(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """The losses and the number of skipped steps; raises if too many steps in a row were skipped."""
        counts = torch.stack([self.state.skipped, self.state.skipped_in_row]).double()
        means = summed(torch.stack([value.double() for value in losses.values()]))
        *numbers, skipped, row = torch.cat((means, counts)).tolist()
        values = dict(zip(losses, numbers, strict=True)) | {"skipped": skipped}
        if row >= self.training.skip_limit:
            wrong = next((name for name, value in values.items() if not math.isfinite(value)), None)
            self._give_up(f"loss {wrong} is {values[wrong]}" if wrong else "a gradient isn't finite", int(row))
        return values

    def _save(self, losses: dict[str, Tensor]) -> None:
        self._on_host(losses)
        if not self.state.is_finite():
            self._give_up("a weight is no longer finite", 0)
        if not processes.leads():
            return
        folder, taken = self.run_folder.checkpoints, snapshot(self.state)
        best = folder / f"step-{self.best['step']:06d}" if self.best else None

        def write() -> None:
            save_checkpoint(folder, taken, self.encoders, self.options)
            prune(folder, self.training.keep_checkpoints, best, self.training.keep_interval)

        self.writer.start(write)

    def _draw(self) -> None:
        """Pictures of the fixed captions, and what the memory layers do with them."""
        if not processes.leads():
            return
        average = self.state.average.model
        for name, picture in self.pictures.save(average, self.run_folder, self.state.step).items():
            self.log.show(self.state.step, name, picture)
        watched = self.pictures.samples.watch(average)
        if watched:
            self.log.write(self.state.step, {name: value.item() for name, value in watched.items()})

    def _give_up(self, reason: str, row: int) -> None:
        good = list_checkpoints(self.run_folder.checkpoints)
        way = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written yet"
        steps = f" ({row} steps in a row were skipped)" if row else ""
        raise UserError(
            f"training diverged at step {self.state.step}: {reason}{steps}; {way}; "
            "lower --training.lr-generator and --training.lr-discriminator"
        )
