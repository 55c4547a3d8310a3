"""The settings of a run: typed groups, their checks, and the YAML form kept in every run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from kvmgan.data.procedural.archive import BirdsSettings
from kvmgan.errors import UserError


@dataclass(frozen=True)
class DataOptions:
    """The pictures, their captions and the words that are kept."""

    name: Literal["birds", "cub", "coco", "folder"] = "birds"
    """Layout of the data: procedural birds, CUB-200-2011, COCO 2014, or a folder of images with captions."""
    root: Path | None = None
    """Folder of the data; birds alone need none (they are drawn into the cache folder)."""
    max_words: int = 18
    """Words kept of a caption [words]; a longer one keeps a random sorted subset."""
    workers: int = 0
    """Processes that load batches [processes]; 0 loads in the training process."""
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

    stages: int = 3
    """Pictures of growing size, each twice the one before [stages]."""
    base_size: int = 64
    """Side of the first picture [pixels]: a power of two, 16 or more."""
    width: int = 64
    """Image feature channels of the refinement stages [channels]."""
    noise_dim: int = 100
    """Length of the noise vector [numbers]."""
    condition_dim: int = 100
    """Length of the sampled condition [numbers]."""
    refinement: Literal["memory", "attention", "none"] = "memory"
    """Key-value memory (KVM-GAN), word attention (AttnGAN) or plain stages (StackGAN-v2)."""
    residual_blocks: int = 2
    """Residual blocks of a refinement stage [blocks]."""
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    """The memory layer; used when --model.refinement is memory."""


@dataclass(frozen=True)
class DiscriminatorOptions:
    """The discriminators, one a stage."""

    width: int = 32
    """Channels of the first block [channels]."""


@dataclass(frozen=True)
class DamsmOptions:
    """The text and image encoders and their pretraining (AttnGAN's DAMSM)."""

    encoder: Literal["small", "inception"] = "inception"
    """Image encoder: a small convolutional one, or Inception-v3."""
    inception_weights: Path | None = None
    """File of torchvision's inception_v3_google weights; None takes torchvision's cache or download."""
    width: int = 32
    """Channels of the small image encoder's first block [channels]."""
    embedding_dim: int = 300
    """Length of a word embedding [numbers]."""
    word_dim: int = 256
    """Length of word, sentence and image region features [numbers], even."""
    dropout: float = 0.5
    """Dropout of the text encoder while it is trained [probability]."""
    steps: int = 100_000
    """Optimiser steps [steps]."""
    batch_size: int = 48
    """Pairs in a batch [images]."""
    lr: float = 2e-3
    """Learning rate of Adam at the start [per step]."""
    lr_decay: float = 0.98
    """Factor on the learning rate after every epoch."""
    lr_floor: float = 0.1
    """Smallest learning rate, as a part of the first."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates."""
    clip: float = 0.25
    """Largest gradient norm of the text encoder's LSTM."""
    gamma1: float = 4.0
    """Sharpness of the attention over image regions."""
    gamma2: float = 5.0
    """Sharpness of the sum over words."""
    gamma3: float = 10.0
    """Sharpness of the match within a batch."""


@dataclass(frozen=True)
class ClassifierOptions:
    """The attribute classifier, trained on real drawings (birds only) and used by the metric alone."""

    width: int = 32
    """Channels of its first block [channels]."""
    steps: int = 600
    """Optimiser steps [steps]."""
    batch_size: int = 64
    """Images in a batch [images]."""
    lr: float = 2e-3
    """Peak learning rate of Adam, followed by a cosine to zero [per step]."""


@dataclass(frozen=True)
class TrainingOptions:
    """The adversarial training."""

    steps: int = 100_000
    """Optimiser steps [steps]."""
    batch_size: int = 10
    """Images in a batch [images], at least 2."""
    lr_generator: float = 2e-4
    """Learning rate of the generator's Adam [per step]."""
    lr_discriminator: float = 2e-4
    """Learning rate of the discriminators' Adam [per step]."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates."""
    lambda_damsm: float = 5.0
    """Weight of the DAMSM loss on the last picture."""
    kl_weight: float = 1.0
    """Weight of the conditioning's KL divergence."""
    ema_decay: float = 0.999
    """Decay of the generator's moving average [per step]."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of generator and discriminators; bfloat16 by autocast, weights stay float32."""
    log_interval: int = 50
    """Steps between lines of stats.jsonl [steps]."""
    sample_interval: int = 1000
    """Steps between sample pictures [steps]."""
    sample_count: int = 16
    """Captions on a sample picture [captions]."""
    checkpoint_interval: int = 5000
    """Steps between checkpoints [steps]."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept [checkpoints]."""
    seed: int = 0
    """Seed of weights, noise and data order."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads [threads]; 0 takes all cores."""


@dataclass(frozen=True)
class EvaluationOptions:
    """The metrics at the end of a run."""

    images: int = 3000
    """Test captions that are drawn and judged [images]."""
    folds: int = 10
    """Parts whose scores give mean and standard deviation [folds]."""
    candidates: int = 100
    """Captions an image chooses among: the true one and others of other classes [captions]."""
    batch_size: int = 50
    """Images in a batch [images]."""
    seed: int = 0
    """Seed of captions, candidates and noise."""


@dataclass(frozen=True)
class Options:
    """Everything that decides what a run computes."""

    preset: str = "birds-tiny"
    """Named settings to start from: birds-tiny, birds, cub or coco."""
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
        return tuple(self.model.base_size << stage for stage in range(self.model.stages))


# Least value of every whole-number setting; those not named here need 1.
_LEAST = {
    "data.workers": 0,
    "data.birds.seed": 0,
    "model.base_size": 16,
    "model.residual_blocks": 0,
    "training.batch_size": 2,
    "damsm.batch_size": 2,
    "damsm.steps": 0,
    "classifier.steps": 0,
    "training.seed": 0,
    "training.threads": 0,
    "evaluation.seed": 0,
    "evaluation.candidates": 2,
}
# Fractional settings that may be zero; the others must be positive.
_MAY_BE_ZERO = {"damsm.dropout", "training.lambda_damsm", "training.kl_weight", "training.ema_decay"}
_BELOW_ONE = {"damsm.dropout", "training.ema_decay", "training.betas", "damsm.betas"}
_PATHS = {"data.root", "damsm.inception_weights"}


def validate(options: Options) -> None:
    """Check every setting alone and the settings that must fit each other.

    Raises:
        UserError: names the option, the value that came and what is allowed.
    """
    for name, value in flatten(options).items():
        _check_number(name, value)
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
    if options.data.name != "birds" and options.data.root is None:
        raise UserError(
            f"--data.root is missing: say where the {options.data.name} data is, for instance --data.root data"
        )


def _check_number(name: str, value: Any) -> None:
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int) and value < _LEAST.get(name, 1):
        raise UserError(f"{option} is {value}: it must be {_LEAST.get(name, 1)} or more")
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, float):
            continue
        below_one, zero = name in _BELOW_ONE, name in _MAY_BE_ZERO or name in _BELOW_ONE
        if not (number > 0 or (zero and number == 0)) or number == float("inf") or (below_one and number >= 1):
            wanted = ("zero or more" if zero else "above zero") + (" and below one" if below_one else "")
            raise UserError(f"{option} is {number}: it must be {wanted}")


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


def to_yaml(options: Options) -> str:
    """The options as YAML, groups in the order of their definition."""
    return yaml.safe_dump(_plain(options), sort_keys=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def load_options(path: Path) -> Options:
    """Read a ``config.yaml``.

    Raises:
        UserError: if the file is missing, isn't YAML, or has unknown or invalid settings.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: name a run folder or a checkpoint that kvmgan.train wrote") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path} is not readable as YAML: restore it or name another run") from None
    options = _build(Options(), values, path, "")
    validate(options)
    return options


def _build(default: Any, values: Any, path: Path, prefix: str) -> Any:
    """The dataclass ``default`` with ``values`` put in, group by group; others keep their default."""
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: {prefix.rstrip('.') or 'the file'} must hold named settings, not {values!r}")
    known = {item.name: getattr(default, item.name) for item in dataclasses.fields(default)}
    changes = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{path}: unknown setting {prefix}{name}; known are {', '.join(known)}")
        changes[name] = _restore(known[name], value, path, f"{prefix}{name}")
    return dataclasses.replace(default, **changes)


def _restore(default: Any, value: Any, path: Path, name: str) -> Any:
    if dataclasses.is_dataclass(default):
        return _build(default, value, path, f"{name}.")
    if name in _PATHS:
        return None if value is None else Path(value)
    if isinstance(default, tuple) and isinstance(value, list) and len(value) == len(default):
        return tuple(_restore(default[0], number, path, name) for number in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default is not None and type(value) is not type(default):
        raise UserError(f"{path}: {name} is {value!r}: expected {type(default).__name__}")
    return value
