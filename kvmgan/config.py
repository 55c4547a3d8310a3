"""The settings of a run: typed groups, each setting with its bounds and unit, and what must hold between settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from kvmgan.bounds import Bound, Count, CountOrZero, Fraction, Positive, PositiveOrZero, Seed, check_bounds
from kvmgan.data.procedural.archive import BirdsSettings
from kvmgan.errors import UserError


@dataclass(frozen=True)
class DataOptions:
    """The pictures, their captions and the words that are kept."""

    name: Literal["birds", "attngan", "cub", "coco", "folder", "shards"] = "birds"
    """Layout of the data: procedural birds (drawn into the cache folder), CUB or COCO with the metadata of AttnGAN,
    CUB-200-2011, COCO 2014, a folder of images with captions, or tar shards of any of them. With --data.root and no
    --data.name the layout is found out from the folder."""
    root: Path | None = None
    """Folder of the data; it is only read."""
    encoding: str | None = None
    """Encoding of caption files that have no byte order mark and aren't UTF-8, such as gb18030 or utf-16-le."""
    max_words: Count = 18
    """Words kept of a training caption [words]; a longer one keeps a random sorted subset."""
    workers: CountOrZero = 0
    """Processes that load batches [processes]; 0 loads in the training process."""
    lanes: Count = 8
    """Stretches of shards that are read side by side for a batch [lanes]; of these, the greatest divisor of the batch.
    Processes and their workers share them: with fewer lanes some shards are read by several."""
    shuffle_window: Count = 256
    """Pictures of a lane that are mixed at a time, and kept in memory as they are stored [images]."""
    birds: BirdsSettings = field(default_factory=BirdsSettings)
    """What is drawn when --data.name is birds."""


@dataclass(frozen=True)
class MemoryOptions:
    """The key-value memory layer (kvmem.KVMemoryLayer)."""

    write_gate: Literal["sigmoid", "linear"] = "sigmoid"
    """How the write gate is squashed."""
    write_gate_width: Literal["scalar", "vector"] = "scalar"
    """One write gate a word, or one a memory channel."""
    response_gate_width: Literal["scalar", "vector"] = "scalar"
    """One response gate a position, or one an image channel."""
    activation: Literal["relu", "identity"] = "relu"
    """What follows the layer's 1x1 convolutions."""
    detach_mean: bool = False
    """Let no gradient pass through the image mean (as the released DM-GAN does)."""
    backend: str | None = None
    """kvmem backend by name; None takes the fastest that can run here."""


@dataclass(frozen=True)
class ModelOptions:
    """The generator."""

    stages: Count = 3
    """Pictures of growing size, each twice the one before [stages]."""
    base_size: Annotated[int, Bound(least=16)] = 64
    """Side of the first picture [pixels]: a power of two, 16 or more."""
    width: Count = 64
    """Image feature channels of the refinement stages [channels]."""
    noise_dim: Count = 100
    """Length of the noise vector [numbers]."""
    condition_dim: Count = 100
    """Length of the sampled condition [numbers]."""
    refinement: Literal["memory", "attention", "none"] = "memory"
    """Key-value memory (KVM-GAN), word attention (AttnGAN) or plain stages (StackGAN-v2)."""
    residual_blocks: CountOrZero = 2
    """Residual blocks of a refinement stage [blocks]."""
    legacy_mask: bool = False
    """Mask words in the order of the released AttnGAN and DM-GAN code, by which a picture depends on its batch: only
    for scoring their weights as they were published."""
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    """The memory layer; used when --model.refinement is memory."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the generated pictures, ascending [pixels]."""
        return tuple(self.base_size << stage for stage in range(self.stages))


@dataclass(frozen=True)
class DiscriminatorOptions:
    """The discriminators, one a stage."""

    width: Count = 32
    """Channels of the first block [channels]."""
    detail_gain: PositiveOrZero = 0.0
    """Factor on the differences of pixels to their 3x3 means, seen beside pictures; 0: not seen, as released."""


@dataclass(frozen=True)
class DamsmOptions:
    """The text and image encoders and their pretraining (AttnGAN's DAMSM)."""

    encoder: Literal["small", "inception"] = "inception"
    """Image encoder: a small convolutional one, or Inception-v3."""
    inception_weights: Path | None = None
    """File of torchvision's inception_v3_google weights; None takes torchvision's cache or download."""
    width: Count = 32
    """Channels of the small image encoder's first block [channels]."""
    embedding_dim: Count = 300
    """Length of a word embedding [numbers]."""
    word_dim: Count = 256
    """Length of word, sentence and image region features [numbers], even."""
    max_words: Count = 18
    """Words kept of a caption in pretraining [words]; a longer one keeps a random sorted subset."""
    dropout: Fraction = 0.5
    """Dropout of the text encoder while it is trained [probability]."""
    epochs: CountOrZero = 200
    """Times that pretraining goes through the training pictures [epochs]; 0 leaves the encoders random."""
    batch_size: Annotated[int, Bound(least=2)] = 48
    """Pairs in a batch [images], of all processes together; a smaller data set makes one batch."""
    lr: Positive = 2e-3
    """Learning rate of Adam at the start [per step]."""
    lr_decay: Positive = 0.98
    """Factor on the learning rate after every epoch."""
    lr_floor: Positive = 0.1
    """Smallest learning rate, as a part of the first."""
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    """Adam's decay rates."""
    clip: Positive = 0.25
    """Largest gradient norm of the whole text encoder; a larger gradient is scaled down to it."""
    gamma1: Positive = 4.0
    """Sharpness of the attention over image regions."""
    gamma2: Positive = 5.0
    """Sharpness of the sum over words."""
    gamma3: Positive = 10.0
    """Sharpness of the match within a batch."""
    validation_interval: Count = 1
    """Epochs between validations on test pictures, after which the best encoders so far are kept [epochs]."""
    validation_images: Count = 1000
    """Test pictures of a validation [images], each with one of its captions."""


@dataclass(frozen=True)
class ClassifierOptions:
    """The attribute classifier, trained on real drawings (birds only) and used by the metric alone."""

    width: Count = 32
    """Channels of its first block [channels]."""
    steps: CountOrZero = 600
    """Optimiser steps [steps]."""
    batch_size: Count = 64
    """Images in a batch [images]; a smaller data set makes one batch."""
    lr: Positive = 2e-3
    """Peak learning rate of Adam, followed by a cosine to zero [per step]."""


@dataclass(frozen=True)
class TrainingOptions:
    """The adversarial training."""

    steps: Count = 100_000
    """Optimiser steps [steps]."""
    batch_size: Annotated[int, Bound(least=2)] = 10
    """Images in a batch [images], at least 2, of all processes together; a smaller data set makes one batch."""
    lr_generator: Positive = 2e-4
    """Learning rate of the generator's Adam [per step]."""
    lr_discriminator: Positive = 2e-4
    """Learning rate of the discriminators' Adam [per step]."""
    lr_decay_start: Annotated[float, Bound(least=0, most=1)] = 1.0
    """Part of the steps after which both learning rates fall, in a line to zero at the last step; 1: they never do."""
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    """Adam's decay rates."""
    gradient_penalty: PositiveOrZero = 0.0
    """Weight of the discriminators' gradient penalty on real pictures with their captions (R1); 0: none, as
    released. A weight of 1 took the grid out of what short runs draw, and made their shapes slower to come."""
    gradient_penalty_interval: Count = 4
    """Steps between gradient penalties [steps], each of which weighs as much as one at each of these steps."""
    lambda_damsm: PositiveOrZero = 5.0
    """Weight of the DAMSM loss on the last picture."""
    kl_weight: PositiveOrZero = 1.0
    """Weight of the conditioning's KL divergence."""
    ema_decay: Fraction = 0.999
    """Decay of the generator's moving average [per step]."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of generator, discriminators and image encoder, by autocast; weights, losses and the moving average
    stay float32. float16 scales its losses. auto: bfloat16 where the device multiplies it fast, else float32."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Order of images and features in memory; changes speed, not results. auto: channels_last for 16-bit arithmetic
    on a device that is fast at it and for float32 on a CPU with AVX-512, else contiguous."""
    compile: bool = False
    """Compile generator, discriminators and image encoder with torch.compile."""
    tf32: bool = False
    """Let NVIDIA GPUs round the factors of float32 products to 10 bits of mantissa."""
    cudnn_benchmark: bool = True
    """Let cuDNN try its convolutions and take the fastest; off, runs on a GPU repeat more exactly."""
    sync_batch_norm: bool = True
    """Of several processes (torchrun): take batch statistics over the batches of all, as one process does of the
    whole batch."""
    accumulation: Count = 1
    """Parts that a batch is computed in, one after the other, to need less memory [parts]; batch statistics and
    mismatched captions are then those of a part."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    skip_limit: Count = 20
    """Steps in a row with a loss or gradient that isn't finite, each skipped, that end the run [steps]."""
    log_interval: Count = 50
    """Steps between lines of stats.jsonl [steps]."""
    sample_interval: Count = 1000
    """Steps between sample pictures [steps]."""
    sample_count: Count = 16
    """Captions on a sample picture [captions]."""
    evaluate_interval: CountOrZero = 0
    """Steps between evaluations of the moving average [steps]; 0 evaluates at the end alone."""
    best_metric: Literal["r_precision", "attribute_accuracy"] = "r_precision"
    """Metric whose best checkpoint is kept beside the newest ones."""
    checkpoint_interval: Count = 5000
    """Steps between checkpoints [steps]."""
    keep_checkpoints: Count = 3
    """Newest checkpoints that are kept [checkpoints], besides the best one."""
    keep_interval: CountOrZero = 0
    """Steps between checkpoints that are kept for good [steps]; 0 keeps none."""
    seed: Seed = 0
    """Seed of weights, noise and data order, in pretraining and training."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    threads: CountOrZero = 0
    """CPU threads [threads]; 0 takes all cores."""


@dataclass(frozen=True)
class EvaluationOptions:
    """The metrics at the end of a run."""

    images: Count = 3000
    """Test captions that are drawn and judged [images]."""
    folds: Count = 10
    """Parts whose scores give mean and standard deviation [folds]."""
    candidates: Annotated[int, Bound(least=2)] = 100
    """Captions an image chooses among: the true one and others of other classes [captions]; a smaller data set
    takes all it has."""
    max_words: Count = 25
    """Words kept of a caption in evaluation and sampling [words]; a longer one keeps its first ones."""
    batch_size: Count = 50
    """Images in a batch [images]."""
    tries: Count = 1
    """Noises that a picture chooses from in evaluation and sampling [noises]: the one around which it changes least."""
    untrained: bool = False
    """Judge a generator of random weights too."""
    seed: Seed = 0
    """Seed of captions, candidates and noise."""


@dataclass(frozen=True)
class Options:
    """Everything that decides what a run computes."""

    preset: str = "birds-tiny"
    """Named settings to start from: birds-tiny, birds, cub or coco."""
    name: str | None = None
    """Name of the run folder, after its number; None takes the preset's or the data folder's."""
    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    discriminator: DiscriminatorOptions = field(default_factory=DiscriminatorOptions)
    damsm: DamsmOptions = field(default_factory=DamsmOptions)
    classifier: ClassifierOptions = field(default_factory=ClassifierOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the generated pictures, ascending [pixels]."""
        return self.model.sizes


def validate(options: Options) -> None:
    """Check every setting alone and the settings that must fit each other.

    Raises:
        UserError: names the option, the value that came and what is allowed.
    """
    check_bounds(options)
    base = options.model.base_size
    if base & (base - 1):
        raise UserError(f"--model.base-size is {base}: it must be a power of two (16, 32, 64, ...)")
    if options.sizes[-1] < 32:
        raise UserError(
            f"--model.base-size {base} with --model.stages {options.model.stages} ends at {options.sizes[-1]} pixels: "
            "the last picture must have 32 or more for the image encoder"
        )
    if options.damsm.word_dim % 2:
        raise UserError(f"--damsm.word-dim is {options.damsm.word_dim}: it must be even (half a direction of the LSTM)")
    if options.evaluation.folds > options.evaluation.images:
        raise UserError(
            f"--evaluation.folds is {options.evaluation.folds}, more than --evaluation.images "
            f"({options.evaluation.images}): take fewer folds or more images"
        )
    if 2 * options.training.accumulation > options.training.batch_size:
        raise UserError(
            f"--training.accumulation is {options.training.accumulation}: a part of --training.batch-size "
            f"({options.training.batch_size}) must have 2 images or more, for a mismatched caption"
        )
    if options.name is not None and (not options.name.strip() or "/" in options.name or "\\" in options.name):
        raise UserError(f"--name is {options.name!r}: it must be a name for a folder, without a slash")
    check_encoding(options.data.encoding, "--data.encoding")
    if options.data.name != "birds" and options.data.root is None:
        raise UserError(
            f"--data.root is missing: say where the {options.data.name} data is, for instance --data.root data"
        )


def check_encoding(name: str | None, option: str) -> None:
    """Find out whether Python knows a text encoding, or None is named.

    Raises:
        UserError: names ``option`` and what came.
    """
    try:
        b"abcd".decode("utf-8" if name is None else name)
    except LookupError:
        raise UserError(f"{option} is {name!r}: Python knows no text encoding of that name") from None
    except UnicodeError:
        return


def flatten(options: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, ``{"training.steps": 100, ...}``, in the order of their definition."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{item.name}."))
        else:
            flat[prefix + item.name] = value
    return flat
