"""One step of adversarial training (KVM-GAN, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kvmgan.config import DamsmOptions, TrainingOptions
from kvmgan.data.pixels import to_scales
from kvmgan.data.samples import Batch
from kvmgan.losses.adversarial import discriminator_loss, generator_loss, gradient_penalty
from kvmgan.losses.conditioning import conditioning_kl
from kvmgan.losses.damsm import damsm_loss
from kvmgan.models.compilation import compile_network
from kvmgan.models.copied_buffers import CopiedBuffers
from kvmgan.models.generator import GeneratorOutput
from kvmgan.parallel import processes
from kvmgan.parallel.exchange import GradientSum, gathered, own_batch
from kvmgan.pretraining.encoders import Encoders
from kvmgan.random_streams import normal_noise
from kvmgan.runs.spans import span
from kvmgan.training.precision import Precision
from kvmgan.training.state import TrainingState

Losses = dict[str, Tensor]


class Captions(NamedTuple):
    """Words (B, T, D), sentence (B, S), mask (B, T) and class (B,) of captions that are each other's negatives."""

    words: Tensor
    sentence: Tensor
    mask: Tensor
    class_ids: Tensor


@dataclass
class StepPart:
    """What the networks see of a batch, or of a part of it: B images a size, B captions, B draws of noise.

    Of several processes each sees its own images; ``captions`` are those of all, in the order of the processes.
    """

    images: list[Tensor]
    words: Tensor
    sentence: Tensor
    mask: Tensor
    noise: Tensor
    condition_noise: Tensor
    mismatched: Tensor
    """(B, S): for each image the sentence of the next one of the part, whichever process has it."""
    captions: Captions
    share: float
    """Of the whole batch."""


class TrainingStep:
    """Trains the discriminators, then the generator, on one batch after the other.

    Nothing in a step waits for the device: losses come back as tensors, and what isn't finite is skipped there.
    """

    def __init__(self, encoders: Encoders, training: TrainingOptions, damsm: DamsmOptions, precision: Precision):
        self.encoders, self.training, self.precision = encoders, training, precision
        self.memory_format = precision.memory_format(training.memory_format)
        if training.compile:
            compile_network(encoders.image)
        self.gammas = {"gamma1": damsm.gamma1, "gamma2": damsm.gamma2, "gamma3": damsm.gamma3}

    def __call__(self, state: TrainingState, batch: Batch) -> Losses:
        """Train on ``batch``, which lies on the device, and advance the average and ``state.step``.

        One generator pass serves both updates, as in the released code; with ``training.accumulation`` parts, the
        generator runs once more for each, so that the activations of one part are kept at a time.
        Returns the losses by name, detached, on the device: the means over the parts; of several processes each has its
        share of them, which add up to the means.
        """
        state.set_learning_rates(self.training)
        parts = list(self._parts(state, batch))
        buffers = _Buffers(state.generator, state.discriminators)
        made = [self._generate(state, part) if len(parts) == 1 else None for part in parts]
        losses, discriminators_good = self._train_discriminators(state, parts, made)
        more, generator_good = self._train_generator(state, parts, made)
        state.guarded.update()
        good = discriminators_good & generator_good
        buffers.restore_unless(good)
        state.count_skip(~good)
        with span("moving average"):
            state.average.update(state.generator, state.step)
        state.step += 1
        return losses | more

    def _parts(self, state: TrainingState, batch: Batch) -> Iterator[StepPart]:
        """This process's batch in equal parts; noise and condition noise are functions of (seed, step) alone."""
        device = batch.tokens.device
        with span("text encoder"):
            words, sentence, mask = self.encoders.encode(batch.tokens, batch.lengths)
        with span("scales"):
            images = to_scales(batch.pixels, state.generator.sizes)
            images = [image.to(sentence.dtype).contiguous(memory_format=self.memory_format) for image in images]
        dims = state.generator.noise_dim, state.generator.condition_dim
        count = self.training.accumulation
        total = processes.count() * len(batch.tokens)
        drawn = normal_noise((total, sum(dims)), self.training.seed, "training noise", state.step)
        drawn = drawn[processes.own_rows(total, count)].to(device, sentence.dtype, non_blocking=True)
        scales = zip(*(image.tensor_split(count) for image in images), strict=True)
        whole = (words, sentence, mask, batch.class_ids, drawn)
        rest = zip(*(tensor.tensor_split(count) for tensor in whole), strict=True)
        for part_images, (*own, part_drawn) in zip(scales, rest, strict=True):
            captions = Captions(*map(gathered, own))
            mismatched = own_batch(captions.sentence.roll(-1, dims=0))
            noise, condition_noise = part_drawn.split(dims, dim=1)
            share = len(noise) / total
            yield StepPart(list(part_images), *own[:3], noise, condition_noise, mismatched, captions, share)

    def _generate(self, state: TrainingState, part: StepPart) -> GeneratorOutput:
        with span("generator"), self.precision.autocast():
            return state.generator(
                part.noise, part.sentence, part.words, part.mask, condition_noise=part.condition_noise
            )

    def _fakes(self, state: TrainingState, part: StepPart, made: GeneratorOutput | None) -> list[Tensor]:
        """The generator's pictures for the discriminators."""
        if made is not None:
            return made.images
        with torch.no_grad(), CopiedBuffers(state.generator):
            return self._generate(state, part).images

    def _train_discriminators(
        self, state: TrainingState, parts: Sequence[StepPart], made: Sequence[GeneratorOutput | None]
    ) -> tuple[Losses, Tensor]:
        """Losses by name, and whether the discriminators' gradients were finite."""
        state.discriminator_optimizer.zero_grad(set_to_none=True)
        losses: Losses = {}
        sums = []
        for part, output in zip(parts, made, strict=True):
            fakes = self._fakes(state, part, output)
            for net, real, fake in zip(state.discriminators, part.images, fakes, strict=True):
                # Cached: a spectral norm is computed once a pass, however often its weight is read.
                with span(f"discriminator {net.size}"), self.precision.autocast(), parametrize.cached():
                    loss, figures = discriminator_loss(net, real, fake, part.sentence, part.mismatched)
                    whole = loss
                    if weight := self._penalty_weight(state.step):
                        penalty = gradient_penalty(net, real, part.sentence)
                        figures["penalty"] = penalty.detach()
                        whole = loss + weight * penalty
                    self._backward(state, part.share * whole)
                if part is parts[-1]:
                    # Exchanged while the next discriminator is trained.
                    sums.append(GradientSum(net.parameters()))
                named = {f"d{net.size}": loss} | {f"d{net.size}_{name}": value for name, value in figures.items()}
                _add(losses, named, part.share)
        with span("discriminators' optimiser"):
            for one in sums:
                one.finish()
            return losses, state.guarded.step(state.discriminator_optimizer)

    def _penalty_weight(self, step: int) -> float:
        """What the gradient penalty weighs at this step: nothing, or as much as at all steps of its interval."""
        interval = self.training.gradient_penalty_interval
        return 0.0 if (step + 1) % interval else interval * self.training.gradient_penalty

    def _train_generator(
        self, state: TrainingState, parts: Sequence[StepPart], made: Sequence[GeneratorOutput | None]
    ) -> tuple[Losses, Tensor]:
        """Losses by name, and whether the generator's gradient was finite."""
        state.generator_optimizer.zero_grad(set_to_none=True)
        losses: Losses = {}
        state.discriminators.requires_grad_(False)
        for part, output in zip(parts, made, strict=True):
            output = output or self._generate(state, part)
            named, gradients = self._judge(state, part, output.images)
            named["kl"] = conditioning_kl(output.mu, output.log_variance)
            weighted = part.share * self.training.kl_weight * named["kl"]
            with span("generator's gradient"):
                torch.autograd.backward([*output.images, weighted], [*gradients, state.guarded.seed(weighted)])
            named["g"] = self._total(named, state.generator.sizes)
            _add(losses, named, part.share)
        state.discriminators.requires_grad_(True)
        with span("generator's optimiser"):
            GradientSum(state.generator.parameters()).finish()
            return losses, state.guarded.step(state.generator_optimizer)

    def _judge(self, state: TrainingState, part: StepPart, images: Sequence[Tensor]) -> tuple[Losses, list[Tensor]]:
        """The losses of generated pictures, and their gradients by the pictures, scaled.

        Each judge's activations go before the next one sees its picture: less memory than one graph of them all.
        """
        losses: Losses = {}
        gradients = []
        for net, image in zip(state.discriminators, images, strict=True):
            seen = image.detach().requires_grad_()
            with span(f"generator's loss {net.size}"), self.precision.autocast(), parametrize.cached():
                losses[f"g{net.size}"], _ = generator_loss(net, seen, part.sentence)
                gradients.append(self._gradient(state, part.share * losses[f"g{net.size}"], seen))
        seen = images[-1].detach().requires_grad_()
        with span("damsm"), self.precision.autocast():
            regions, features = map(gathered, self.encoders.image(seen))
            losses["damsm_word"], losses["damsm_sentence"] = damsm_loss(
                (regions, features), *part.captions, **self.gammas
            )
            matching = losses["damsm_word"] + losses["damsm_sentence"]
            # Every process computes this loss of all processes' images whole, and its gradient by its own images.
            weight = processes.count() * part.share * self.training.lambda_damsm
            gradients[-1] = gradients[-1] + self._gradient(state, weight * matching, seen)
        return losses, gradients

    def _total(self, losses: Losses, sizes: Sequence[int]) -> Tensor:
        """The generator's whole loss from its parts."""
        adversarial = sum(losses[f"g{size}"] for size in sizes)
        matching = losses["damsm_word"] + losses["damsm_sentence"]
        return adversarial + self.training.lambda_damsm * matching + self.training.kl_weight * losses["kl"]

    @staticmethod
    def _backward(state: TrainingState, loss: Tensor) -> None:
        loss.backward(gradient=state.guarded.seed(loss))

    @staticmethod
    def _gradient(state: TrainingState, loss: Tensor, image: Tensor) -> Tensor:
        return torch.autograd.grad(loss, image, state.guarded.seed(loss))[0]


def _add(losses: Losses, part: Losses, share: float) -> None:
    """Add a part's losses, detached and weighted by its share of the batch."""
    for name, value in part.items():
        weighted = share * value.detach()
        losses[name] = losses[name] + weighted if name in losses else weighted


class _Buffers:
    """The running statistics and spectral vectors before a step, to be put back if the step is skipped.

    A forward pass that isn't finite would leave NaN in them for good.
    """

    def __init__(self, *modules: nn.Module):
        self.tensors = [b for module in modules for b in module.buffers() if b.is_floating_point()]
        self.before = self._flat()

    @torch.no_grad()
    def restore_unless(self, good: Tensor) -> None:
        """Put them back where ``good``, (), bool, is false; the host isn't told which it was."""
        kept = torch.where(good, self._flat(), self.before).split([t.numel() for t in self.tensors])
        torch._foreach_copy_(self.tensors, [flat.view_as(t) for flat, t in zip(kept, self.tensors, strict=True)])

    def _flat(self) -> Tensor:
        return torch.cat([tensor.detach().flatten() for tensor in self.tensors])
