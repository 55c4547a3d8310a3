"""Settings: their bounds stand beside them, and YAML restores every type."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import pytest

from kvmgan.bounds import Bound, Count, Fraction, Seed, check_bounds
from kvmgan.config import DataOptions, Options, TrainingOptions, flatten, validate
from kvmgan.config_file import load_options, to_yaml
from kvmgan.errors import UserError
from kvmgan.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class _Inner:
    half: Fraction = 0.5
    pair: tuple[Fraction, Fraction] = (0.1, 0.2)


@dataclasses.dataclass(frozen=True)
class _Outer:
    count: Count = 1
    seed: Seed = 0
    free: int = 0
    sized: Annotated[int, Bound(least=16)] = 16
    inner: _Inner = dataclasses.field(default_factory=_Inner)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (_Outer(count=0), "--count is 0: it must be 1 or more"),
        (_Outer(seed=-1), "--seed is -1: it must be 0 or more and below 9223372036854775808"),
        (_Outer(seed=10**400), "--seed is 1000"),
        (_Outer(seed=2**63), "--seed is 9223372036854775808"),
        (_Outer(sized=15), "--sized is 15: it must be 16 or more"),
        (_Outer(inner=_Inner(half=1.0)), "--inner.half is 1.0: it must be 0 or more and below 1"),
        (_Outer(inner=_Inner(half=float("nan"))), "--inner.half is nan"),
        (_Outer(inner=_Inner(pair=(0.1, 1.0))), "--inner.pair is 1.0"),
    ],
)
def test_bounds_name_the_option_and_what_is_allowed(settings, message):
    with pytest.raises(UserError) as error:
        check_bounds(settings)
    assert str(error.value).startswith(message)


def test_what_is_within_bounds_passes():
    check_bounds(_Outer(seed=2**63 - 1, free=-5))
    for make in PRESETS.values():
        check_bounds(make())


def test_every_number_of_a_run_has_a_bound():
    """A setting that is added without one is found here; those of the birds have their own check."""
    for name, value in flatten(Options()).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(numbers[0], int | float) and not isinstance(numbers[0], bool) and ".birds." not in name:
            bad = tuple(type(number)(-1) for number in numbers)
            with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is"):
                check_bounds(_with(Options(), name, bad if isinstance(value, tuple) else bad[0]))


def _with(options, name, value):
    """The options with a setting, by its dotted name, changed."""
    head, _, rest = name.partition(".")
    changed = _with(getattr(options, head), rest, value) if rest else value
    return dataclasses.replace(options, **{head: changed})


def test_a_part_of_an_accumulated_batch_has_two_images():
    options = Options(training=TrainingOptions(batch_size=8, accumulation=5))
    with pytest.raises(UserError, match=r"--training\.accumulation is 5"):
        validate(options)
    validate(Options(training=TrainingOptions(batch_size=8, accumulation=4)))


@pytest.mark.parametrize("name", ["", "  ", "a/b"])
def test_a_run_name_must_be_one_of_a_folder(name):
    with pytest.raises(UserError, match="--name is"):
        validate(Options(name=name))


@pytest.mark.parametrize("encoding", ["gb18030", "UTF-16-LE", "utf-32", "idna", None])
def test_a_text_encoding_may_be_named(encoding):
    validate(Options(data=DataOptions(encoding=encoding)))


@pytest.mark.parametrize("encoding", ["gb", "hex", "zlib", ""])
def test_another_name_is_no_text_encoding(encoding):
    with pytest.raises(UserError, match=rf"--data\.encoding is '{encoding}': Python knows no text encoding"):
        validate(Options(data=DataOptions(encoding=encoding)))


def test_options_survive_yaml(tmp_path):
    """Every preset, and paths, tuples, booleans and None."""
    path = tmp_path / "config.yaml"
    for make in PRESETS.values():
        options = _with(make(), "data.root", tmp_path)
        options = _with(options, "damsm.inception_weights", Path("weights.pth"))
        options = _with(options, "training.compile", True)
        options = _with(options, "training.seed", 2**63 - 1)
        path.write_text(to_yaml(options))
        assert load_options(path) == options


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("training: {stepz: 3}", "unknown setting training.stepz"),
        ("training: {steps: many}", "training.steps is 'many': expected int"),
        ("training: {steps: true}", "training.steps is True: expected int"),
        ("training: {compile: 1}", "training.compile is 1: expected bool"),
        ("training: {betas: [0.5]}", r"training.betas is \[0.5\]: expected 2 values"),
        ("training: {precision: fp8}", "training.precision is 'fp8': choose one of auto, float32"),
        ("data: {root: 3}", "data.root is 3: expected str"),
        ("training: 3", "training must hold named settings"),
        ("- 1", "must hold named settings"),
        (": :", "not readable as YAML"),
        ("!!python/object/apply:os.system [touch called]", "not readable as YAML"),
        ("name: !!python/name:os.system", "not readable as YAML"),
        ("model: {base_size: 20}", "power of two"),
        ("training: {seed: -1}", r"--training\.seed is -1"),
    ],
)
def test_bad_yaml_is_refused(tmp_path, text, complaint):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        load_options(path)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml is missing: write one"):
        load_options(tmp_path / "none.yaml", "write one")
    with pytest.raises(UserError, match="can't be read"):
        load_options(tmp_path, "write one")
