"""Species: different, well named, split by class, and a function of the seed."""

import itertools

import pytest

from kvmgan.data.procedural.attributes import ATTRIBUTES, SPECIES_ATTRIBUTES, make_species
from kvmgan.errors import UserError


def test_species_of_the_default_data_set() -> None:
    """200 species, 50 of them test, no name twice, any two apart in at least three attributes that captions name."""
    species = make_species(200, 50, 0)
    assert len(species) == 200
    assert sum(kind.is_test for kind in species) == 50
    assert len({kind.name.partition(".")[2] for kind in species}) == 200
    assert species[6].name.startswith("007.")
    for first, second in itertools.combinations(species, 2):
        assert sum(first.attributes[name] != second.attributes[name] for name in SPECIES_ATTRIBUTES) >= 3


@pytest.mark.parametrize("seed", range(3))
def test_every_value_is_in_both_splits(seed: int) -> None:
    """No test caption names a colour that training never showed at that part."""
    species = make_species(200, 50, seed)
    for name in SPECIES_ATTRIBUTES:
        for is_test in (False, True):
            assert {kind.attributes[name] for kind in species if kind.is_test == is_test} == set(ATTRIBUTES[name])


def test_touching_parts_differ_in_colour() -> None:
    """A wing, crown or beak in the colour of the body could not be seen."""
    for kind in make_species(200, 50, 1):
        values = kind.attributes
        assert values["belly"] not in (values["wing"], values["crown"], values["beak"])


def test_species_are_a_function_of_the_seed() -> None:
    """The same seed gives the same species, another seed others, also where only bits above the 32nd differ."""
    assert make_species(20, 5, 3) == make_species(20, 5, 3)
    seeds = (3, 4, 2**32, 2**32 + 3, 3 * 2**32 + 3, 2**63 - 1)
    assert all(make_species(20, 5, a) != make_species(20, 5, b) for a, b in itertools.combinations(seeds, 2))


def test_too_many_species(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that finds no further species ends with an error that names the setting."""
    monkeypatch.setattr("kvmgan.data.procedural.attributes._ATTEMPTS_PER_SPECIES", 1)
    with pytest.raises(UserError, match="classes=300"):
        make_species(300, 5, 0)
