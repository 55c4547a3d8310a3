"""The attributes of a procedural bird and the species made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kvmgan.errors import UserError

PLUMAGE = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")

# Every attribute that a caption can name; none of them changes when the image is mirrored.
# `belly` is the colour of the whole body, which wing, crown and tail cover in part: "a red bird" has a red belly.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "crown": PLUMAGE,
    "wing": PLUMAGE,
    "belly": PLUMAGE,
    "tail": PLUMAGE,
    "beak": ("yellow", "red", "blue", "black"),
    "beak_length": ("short", "long"),
    "pattern": ("plain", "striped", "spotted"),
    "size": ("small", "large"),
    "background": ("sky", "forest", "sand", "water", "sunset"),
}
IMAGE_ATTRIBUTES = ("background",)
SPECIES_ATTRIBUTES = tuple(name for name in ATTRIBUTES if name not in IMAGE_ATTRIBUTES)

# Two species differ in at least so many attributes, so that captions naming three to five of them tell most apart.
_MIN_DIFFERENCES = 3
_ATTEMPTS_PER_SPECIES = 20_000
_SPLIT_ATTEMPTS = 300

_SHADES = {
    "red": ("Scarlet", "Ruby", "Crimson"),
    "orange": ("Orange", "Amber", "Tangerine"),
    "yellow": ("Golden", "Lemon", "Saffron"),
    "green": ("Emerald", "Moss", "Jade"),
    "blue": ("Azure", "Cobalt", "Sapphire"),
    "purple": ("Violet", "Plum", "Amethyst"),
    "brown": ("Chestnut", "Cinnamon", "Umber"),
    "black": ("Sable", "Ebony", "Raven"),
    "white": ("Snowy", "Ivory", "Pearl"),
}
_PARTS = (("wing", "winged"), ("crown", "crowned"), ("belly", "bellied"), ("tail", "tailed"))
_FAMILIES = {
    ("small", "short"): ("Finch", "Sparrow", "Bunting", "Tanager", "Wren", "Robin"),
    ("small", "long"): ("Kingfisher", "Sunbird", "Bee_eater", "Sandpiper", "Honeyeater", "Treecreeper"),
    ("large", "short"): ("Dove", "Parrot", "Cuckoo", "Jay", "Grouse", "Magpie"),
    ("large", "long"): ("Toucan", "Hornbill", "Ibis", "Woodpecker", "Curlew", "Crow"),
}


@dataclass(frozen=True)
class Species:
    """A class of birds: its folder name, such as ``"001.Scarlet_winged_Finch"``, its attributes and its split."""

    name: str
    attributes: dict[str, str]
    is_test: bool


def make_species(count: int, test_count: int, seed: int) -> list[Species]:
    """Draw `count` species, `test_count` of them for the test split, as a pure function of the arguments.

    Any two differ in at least three attributes. As far as the counts allow, each value occurs in both splits.
    Raises `UserError` when so many distinct species cannot be found.
    """
    rng = np.random.default_rng((seed, 0))
    attributes = _distinct_attributes(count, rng)
    test = _choose_test(attributes, test_count, rng)
    names = _names(attributes, rng)
    return [Species(names[i], attributes[i], i in test) for i in range(count)]


def _distinct_attributes(count: int, rng: np.random.Generator) -> list[dict[str, str]]:
    """Draw attribute values until `count` species keep their distance from each other."""
    codes = np.empty((count, len(SPECIES_ATTRIBUTES)), dtype=np.int64)
    found: list[dict[str, str]] = []
    for _ in range(count * _ATTEMPTS_PER_SPECIES):
        if len(found) == count:
            break
        code = np.array([rng.integers(len(ATTRIBUTES[name])) for name in SPECIES_ATTRIBUTES])
        values = {name: ATTRIBUTES[name][index] for name, index in zip(SPECIES_ATTRIBUTES, code, strict=True)}
        differences = (codes[: len(found)] != code).sum(axis=1)
        if _is_legible(values) and (differences >= _MIN_DIFFERENCES).all():
            codes[len(found)] = code
            found.append(values)
    if len(found) < count:
        raise UserError(
            f"classes={count}: only {len(found)} species that differ enough were found, choose fewer classes"
        )
    return found


def _is_legible(values: Mapping[str, str]) -> bool:
    """Say whether the parts that touch each other have different colours."""
    belly, beak = values["belly"], values["beak"]
    return belly not in (values["wing"], values["crown"], beak) and beak != values["crown"]


def _choose_test(attributes: list[dict[str, str]], test_count: int, rng: np.random.Generator) -> set[int]:
    """Return the indices of the test species: of many random choices, the first with the fewest one-sided values."""
    best: set[int] = set()
    fewest = None
    for _ in range(_SPLIT_ATTEMPTS):
        chosen = {int(i) for i in rng.permutation(len(attributes))[:test_count]}
        test = {pair for i in chosen for pair in attributes[i].items()}
        train = {pair for i in range(len(attributes)) if i not in chosen for pair in attributes[i].items()}
        one_sided = len(test ^ train)
        if fewest is None or one_sided < fewest:
            best, fewest = chosen, one_sided
        if one_sided == 0:
            break
    return best


def _names(attributes: list[dict[str, str]], rng: np.random.Generator) -> list[str]:
    """Name every species after a coloured part and a family that suits its size and beak, each name once."""
    taken: set[str] = set()
    names = []
    for number, values in enumerate(attributes, start=1):
        candidates = [
            f"{shade}_{suffix}_{family}"
            for part, suffix in _PARTS
            for shade in _SHADES[values[part]]
            for family in _FAMILIES[values["size"], values["beak_length"]]
        ]
        free = [name for name in candidates if name not in taken]
        # Past a few thousand species every name can be taken: the number in front still tells them apart.
        name = str(rng.choice(free or candidates))
        taken.add(name)
        names.append(f"{number:03d}.{name}")
    return names
