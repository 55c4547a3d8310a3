"""Settings as YAML: the ``config.yaml`` of every run folder, and what ``--dry-run`` prints."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from kvmgan.bounds import setting_types
from kvmgan.config import Options, validate
from kvmgan.errors import UserError

Settings = TypeVar("Settings")


def to_yaml(options: Options) -> str:
    """The options as YAML, groups in the order of their definition."""
    return yaml.safe_dump(plain_settings(options), sort_keys=False)


def plain_settings(value: Any) -> Any:
    """Settings as what YAML and JSON can hold: groups as dictionaries, tuples as lists, paths as text."""
    if dataclasses.is_dataclass(value):
        return {item.name: plain_settings(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def load_options(path: Path, advice: str = "name a run folder or a checkpoint that kvmgan.train wrote") -> Options:
    """Read a ``config.yaml``; settings that it doesn't name keep their default.

    ``advice``: what to do if the file is missing.

    Raises:
        UserError: if the file is missing, isn't YAML, or has unknown or invalid settings.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {advice}") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): {advice}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path} is not readable as YAML: restore it or name another") from None
    options = restore_settings(Options(), values, path)
    validate(options)
    return options


def restore_settings(default: Settings, values: Any, path: Path, prefix: str = "") -> Settings:
    """The dataclass ``default`` with the ``values`` of YAML or JSON put in, group by group; others keep their default.

    Raises:
        UserError: names ``path``, the setting below ``prefix`` and what came, if it is unknown or of another type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: {prefix.rstrip('.') or 'the file'} must hold named settings, not {values!r}")
    kinds = setting_types(type(default))
    changes = {}
    for name, value in values.items():
        if name not in kinds:
            raise UserError(f"{path}: unknown setting {prefix}{name}; known are {', '.join(kinds)}")
        before = getattr(default, name)
        if dataclasses.is_dataclass(before):
            changes[name] = restore_settings(before, value, path, f"{prefix}{name}.")
        else:
            changes[name] = _restore(kinds[name], value, f"{path}: {prefix}{name} is {value!r}")
    return dataclasses.replace(default, **changes)


def _restore(kind: Any, value: Any, complaint: str) -> Any:
    """A value of a setting's type from what YAML holds."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _restore(parts[0], value, complaint)
    if origin in (Union, types.UnionType):
        wanted = next(part for part in parts if part is not type(None))
        return None if value is None else _restore(wanted, value, complaint)
    if origin is Literal:
        if value not in parts:
            raise UserError(f"{complaint}: choose one of {', '.join(map(str, parts))}")
        return value
    if origin is tuple:
        if not isinstance(value, list) or len(value) != len(parts):
            raise UserError(f"{complaint}: expected {len(parts)} values")
        return tuple(_restore(part, item, complaint) for part, item in zip(parts, value, strict=True))
    if kind is float and type(value) is int:
        return float(value)
    stored = str if kind is Path else kind
    if type(value) is not stored:
        raise UserError(f"{complaint}: expected {stored.__name__}")
    return kind(value)
