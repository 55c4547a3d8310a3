"""Bounds of a setting, written beside it: ``steps: Annotated[int, Bound(least=1)]``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from kvmgan.errors import UserError

SEED_LIMIT = 2**63
"""Seeds are whole numbers from 0 up to, not including, this one."""


@dataclass(frozen=True)
class Bound:
    """The numbers that a setting may have: from ``least`` or above ``above`` to ``most`` or below ``below``."""

    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf
    most: float = math.inf

    def holds(self, number: float) -> bool:
        """Whether a number is within the bounds; NaN and infinity never are."""
        # A whole number may be too large for a float.
        finite = isinstance(number, int) or math.isfinite(number)
        return finite and self.least <= number <= self.most and self.above < number < self.below

    def __str__(self) -> str:
        parts = []
        if self.least > -math.inf:
            parts.append(f"{self.least} or more")
        if self.above > -math.inf:
            parts.append(f"above {self.above}")
        if self.below < math.inf:
            parts.append(f"below {self.below}")
        if self.most < math.inf:
            parts.append(f"at most {self.most}")
        return " and ".join(parts)


Count = Annotated[int, Bound(least=1)]
CountOrZero = Annotated[int, Bound(least=0)]
Seed = Annotated[int, Bound(least=0, below=SEED_LIMIT)]
Positive = Annotated[float, Bound(above=0)]
PositiveOrZero = Annotated[float, Bound(least=0)]
# A part of one whole that is never all of it, such as a dropout or a decay.
Fraction = Annotated[float, Bound(least=0, below=1)]


@cache
def setting_types(kind: type) -> dict[str, Any]:
    """Settings of a dataclass by name, each with its type, bounds included."""
    return get_type_hints(kind, include_extras=True)


def check_bounds(settings: Any, prefix: str = "") -> None:
    """Check every number in a dataclass of settings and in the groups below it.

    Raises:
        UserError: names the option, the value that came and what is allowed.
    """
    for name, kind in setting_types(type(settings)).items():
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            check_bounds(value, f"{prefix}{name}.")
            continue
        for number, bound in _bounded(kind, value):
            if not bound.holds(number):
                option = f"--{prefix}{name}".replace("_", "-")
                raise UserError(f"{option} is {number}: it must be {bound}")


def _bounded(kind: Any, value: Any) -> Iterator[tuple[float, Bound]]:
    """The numbers in a value, each with the bound that its type carries."""
    if get_origin(kind) is Annotated:
        yield from ((value, extra) for extra in kind.__metadata__ if isinstance(extra, Bound))
    elif get_origin(kind) is tuple:
        for part, number in zip(get_args(kind), value, strict=True):
            yield from _bounded(part, number)
