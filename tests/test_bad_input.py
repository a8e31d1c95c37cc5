"""Bad input, case by case and for every surrogate that ships: a clear error, or a correct result."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import plugins
from orchestrator.config.past_results import TableOptions, read_table
from orchestrator.domain import Candidate, Crystal, Dataset, Objective, Outcome, Problem, Row, sha256
from orchestrator.errors import MaterialError, MatloopError, NotEnoughData, SpaceError, SurrogateError
from orchestrator.materials.files import crystal_from_cif
from orchestrator.materials.structures import check
from orchestrator.protocols import Surrogate
from orchestrator.spaces.box import Box
from orchestrator.spaces.pool import Pool

NAMES = tuple(name for name in plugins.available("surrogates") if name != "phase_classifier")  # test_phases.py
QUICK = {"epochs": 2, "members": 2, "trees": 30, "device": "cpu"}
PROBLEM = Problem((Objective("energy", "eV/atom", "minimize"),))
CUBE = ((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, 4.0))


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep feature caches out of the user's folder."""
    from orchestrator.networks import feature_cache, pretrained  # noqa: PLC0415  imports torch, which collection should not

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(feature_cache.CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        pretrained._cache.cache_clear()
        yield
        pretrained._cache.cache_clear()


def build(name: str, **more: object) -> Surrogate:
    """Build a surrogate with those of the quick options that it has."""
    known = plugins.load("surrogates", name).Options.model_fields
    options = {key: value for key, value in {**QUICK, **more}.items() if key in known}
    if "members" in known and known["members"].annotation is not int:  # names, not a number
        del options["members"]
    built: Surrogate = plugins.build("surrogates", name, options)
    return built


def reads_crystals(name: str) -> bool:
    """Say whether a surrogate learns from structures."""
    return "structure" in build(name).supports()


def crystal(a: float, species: tuple[str, ...], sites: tuple[tuple[float, float, float], ...]) -> Crystal:
    """Return a cubic cell."""
    return Crystal(((a, 0.0, 0.0), (0.0, a, 0.0), (0.0, 0.0, a)), species, sites)


def candidate(structure: Crystal, label: str = "") -> Candidate:
    """Return a candidate with a crystal."""
    label = label or "".join(structure.species[:6])
    return Candidate.make(label=label, crystal=structure, crystal_key=sha256(repr(structure)))


CENTRE = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5))
CRYSTALS = [
    candidate(crystal(a, pair, CENTRE))
    for a, pair in zip(
        (4.1, 4.3, 3.9, 4.2, 3.8, 4.0, 4.5, 3.7),
        (("Cs", "Cl"), ("Cs", "Br"), ("Tl", "Cl"), ("Tl", "Br"), ("Ag", "Zn"), ("Cu", "Zn"), ("Cs", "I"), ("Ni", "Al")),
        strict=True,
    )
]
SETTINGS = [Candidate.make(label=f"T{i}", parameters={"T": 300.0 + 40 * i, "t": float(i % 3)}) for i in range(8)]


def given(name: str) -> list[Candidate]:
    """Return eight candidates that a surrogate can read."""
    return CRYSTALS if reads_crystals(name) or "composition" in build(name).supports() else SETTINGS


def rows(candidates: list[Candidate], values: list[float], **more: Any) -> Dataset:
    """Return one label a candidate."""
    return Dataset(
        tuple(
            Row(i + 1, one, one.parameters, "energy", value, None, Outcome.MEASURED, measurement=i + 1, **more)
            for i, (one, value) in enumerate(zip(candidates, values, strict=False))
        )
    )


VALUES = [-1.0, -0.7, -1.2, -0.4, -0.9, -0.1, -0.6, -1.4]


@pytest.fixture(scope="module")
def fitted() -> dict[str, Surrogate]:
    """Train every surrogate once."""
    found = {}
    for name in NAMES:
        found[name] = build(name)
        found[name].fit(rows(given(name), VALUES), PROBLEM, seed=1)
    return found


CIF = """data_alloy
_cell_length_a 3.9
_cell_length_b 3.9
_cell_length_c 3.9
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
DISORDERED = {
    "shared": CIF + "Cu1 Cu 0 0 0 0.5\nAu1 Au 0 0 0 0.5\n",
    "partly empty": CIF + "Cu1 Cu 0 0 0 0.5\nO1 O 0.5 0.5 0.5 1.0\n",
}


@pytest.mark.parametrize("kind", DISORDERED)
def test_disorder_is_refused_where_structures_are_read(kind: str, tmp_path: Path) -> None:
    """A site that is shared or partly empty is refused by name, in a text and in a pool, with what to do."""
    with pytest.raises(MaterialError, match=r"alloy\.cif is disordered.*OrderDisordered"):
        crystal_from_cif(DISORDERED[kind], "alloy.cif")
    (tmp_path / "alloy.cif").write_text(DISORDERED[kind])
    with pytest.raises(SpaceError, match=r"alloy\.cif is disordered"):
        Pool(Pool.Options(path=tmp_path, cache=False))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (crystal(4.0, (), ()), "no atoms"),
        (crystal(4.0, ("Na", "Cl"), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.001))), "on top of each other"),
        (Crystal(((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (4.0, 4.0, 0.0)), ("Na",), ((0.0, 0.0, 0.0),)), "span a volume"),
        (Crystal(((0.0,) * 3,) * 3, ("Na",), ((0.0, 0.0, 0.0),)), "span a volume"),
        (crystal(4.0, ("Na",), ((math.nan, 0.0, 0.0),)), "not finite"),
        (crystal(4.0, ("Xx",), ((0.0, 0.0, 0.0),)), "does not exist"),
        (crystal(4.0, ("Na", "Cl"), ((0.0, 0.0, 0.0),)), "2 species but 1 positions"),
    ],
)
def test_impossible_crystals_are_refused_where_structures_are_read(bad: Crystal, words: str) -> None:
    """No atoms, overlapping atoms, a flat or missing cell, numbers that are none: each is named."""
    with pytest.raises(MaterialError, match=words):
        check(bad, "it")


def test_a_structure_without_a_lattice_is_refused(tmp_path: Path) -> None:
    """A molecule, and JSON that lacks the lattice, are told from crystals."""
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0 0.8 0.6\nH 0 -0.8 0.6\n")
    with pytest.raises(SpaceError, match=r"water\.xyz: frame 1 is not periodic"):
        Pool(Pool.Options(path=tmp_path / "water.xyz", cache=False))
    content = [{"species": ["Na"], "frac_coords": [[0, 0, 0]]}]
    (tmp_path / "bare.json").write_text(json.dumps(content))
    with pytest.raises(SpaceError, match=r"bare\.json: entry 1 cannot be read.*expected are the keys lattice"):
        Pool(Pool.Options(path=tmp_path / "bare.json", cache=False))


@pytest.mark.parametrize("name", [name for name in NAMES if given(name) is CRYSTALS])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (crystal(4.0, (), ()), "no crystal|no atoms|without atoms"),
        (crystal(4.0, ("Na", "Cl"), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.001))), "NaCl.* 0.004 Å apart"),
        (Crystal(((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (4.0, 4.0, 0.0)), ("Na",), ((0.0, 0.0, 0.0),)), "plane"),
        (crystal(4.0, ("Na", "Na"), (*CENTRE[:1], (math.inf, 0.0, 0.0))), "finite"),
    ],
)
def test_impossible_crystals_are_refused_by_every_surrogate(
    name: str, bad: Crystal, words: str, fitted: dict[str, Surrogate]
) -> None:
    """Crystals that came by another way than a file are refused by all that look at atoms' places.

    What reads the formula alone answers with what it says of that formula in any other crystal.
    """
    asked = [CRYSTALS[0], candidate(bad, "bad one")]
    if bad.species and not looks_at_places(fitted[name]):
        sound = candidate(crystal(9.0, bad.species, CENTRE[: len(bad.species)]))
        np.testing.assert_allclose(
            fitted[name].predict(asked).mean[1], fitted[name].predict([sound]).mean[0], rtol=1e-9
        )
    else:
        with pytest.raises(MaterialError, match=words):
            fitted[name].predict(asked)
    assert np.all(np.isfinite(fitted[name].predict(CRYSTALS[:2]).mean))


def looks_at_places(surrogate: Surrogate) -> bool:
    """Say whether a wider cell is another crystal to a surrogate."""
    wider = candidate(crystal(4.6, ("Cs", "Cl"), CENTRE))
    mean = surrogate.predict([CRYSTALS[0], wider]).mean
    return not np.allclose(mean[0], mean[1], rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if given(name) is CRYSTALS])
def test_one_atom_is_a_crystal(name: str) -> None:
    """A cell of one atom trains and is answered; where its images are too far away, it is answered or named."""
    near, far = (candidate(crystal(a, (symbol,), CENTRE[:1])) for symbol, a in (("Po", 3.35), ("Xe", 7.0)))
    surrogate = build(name)
    surrogate.fit(rows([near, *CRYSTALS[:7]], VALUES), PROBLEM, seed=1)
    prediction = surrogate.predict([near])
    assert np.all(np.isfinite(prediction.mean))
    assert np.all(prediction.sd > 0)
    try:
        assert np.all(np.isfinite(surrogate.predict([far]).mean))
    except MaterialError as error:
        assert "Xe" in str(error)  # noqa: PT017  either of two outcomes is right


@pytest.mark.parametrize("name", [name for name in NAMES if given(name) is CRYSTALS])
def test_five_hundred_atoms_are_answered_like_their_small_cell(name: str, fitted: dict[str, Surrogate]) -> None:
    """A 500-atom repetition of a two-atom cell has the small cell's prediction: all targets are per atom or alike."""
    small = CRYSTALS[0].crystal
    assert small is not None
    times = np.array([5, 5, 10])
    shifts = np.array([(i, j, k) for i in range(5) for j in range(5) for k in range(10)])
    sites = ((np.array(small.frac_coords)[None] + shifts[:, None]) / times).reshape(-1, 3)
    lattice = np.array(small.lattice) * times[:, None]
    large = Crystal(tuple(map(tuple, lattice.tolist())), small.species * len(shifts), tuple(map(tuple, sites.tolist())))
    assert len(large.species) == 500
    prediction = fitted[name].predict([candidate(large, "large"), CRYSTALS[0]])
    np.testing.assert_allclose(prediction.mean[0], prediction.mean[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_labels_that_are_no_numbers_never_train(name: str, odd: float, fitted: dict[str, Surrogate]) -> None:
    """A label of NaN or infinity leaves the fit as it is without that row."""
    candidates = given(name)
    dataset = rows(candidates, VALUES)
    spoilt = Dataset((*dataset.rows, replace(dataset.rows[0], trial=99, measurement=99, value=odd)))
    surrogate = build(name)
    report = surrogate.fit(spoilt, PROBLEM, seed=1)
    assert report.labels == len(VALUES)
    want, got = fitted[name].predict(candidates), surrogate.predict(candidates)
    np.testing.assert_array_equal(got.mean, want.mean)
    np.testing.assert_array_equal(got.sd, want.sd)


@pytest.mark.parametrize("name", NAMES)
def test_standard_errors_that_are_no_numbers_count_as_unknown(name: str, fitted: dict[str, Surrogate]) -> None:
    """A standard error of NaN is one that was not given."""
    candidates = given(name)
    dataset = Dataset(tuple(replace(row, std_error=math.nan) for row in rows(candidates, VALUES).rows))
    surrogate = build(name)
    surrogate.fit(dataset, PROBLEM, seed=1)
    np.testing.assert_array_equal(surrogate.predict(candidates).mean, fitted[name].predict(candidates).mean)


@pytest.mark.parametrize("name", NAMES)
def test_two_labels_are_too_few_and_three_enough(name: str) -> None:
    """Two labels are refused with their number; three give finite answers that are sure of nothing."""
    candidates = given(name)
    with pytest.raises(NotEnoughData, match="has 2 labels; at least 3"):
        build(name).fit(rows(candidates[:2], VALUES), PROBLEM, seed=1)
    surrogate = build(name)
    surrogate.fit(rows(candidates[:3], VALUES), PROBLEM, seed=1)
    prediction = surrogate.predict(candidates)
    assert np.all(np.isfinite(prediction.mean))
    assert np.all(np.isfinite(prediction.sd))
    assert np.all(prediction.sd > 0.01)
    assert np.all(np.abs(prediction.mean - np.mean(VALUES[:3])) < 5 * np.std(VALUES[:3]))


@pytest.mark.parametrize("name", NAMES)
def test_constant_labels_are_answered_and_said(name: str) -> None:
    """Equal labels give that value everywhere, with a spread that is not zero, and a note."""
    candidates = given(name)
    surrogate = build(name)
    report = surrogate.fit(rows(candidates, [2.5] * 8), PROBLEM, seed=1)
    prediction = surrogate.predict(candidates)
    np.testing.assert_allclose(prediction.mean, 2.5, atol=0.05)
    assert np.all(prediction.sd > 0)
    assert any("equal" in note for note in report.notes)


@pytest.mark.parametrize("name", NAMES)
def test_an_outlier_of_a_million_is_named_and_swallows_nothing(name: str) -> None:
    """The trial is named; the answers for all others stay within reach of their labels."""
    candidates = given(name)
    values = [*VALUES[:7], 1e6]
    surrogate = build(name)
    report = surrogate.fit(rows(candidates, values), PROBLEM, seed=1)
    assert any("trial 8" in note and "1e+06" in note for note in report.notes)
    prediction = surrogate.predict(candidates[:7])
    assert np.all(np.isfinite(prediction.sd))
    assert np.abs(prediction.mean[:, 0] - np.mean(VALUES[:7])).max() < 10


def test_units_that_differ_between_sources_are_converted_or_refused(tmp_path: Path) -> None:
    """A column in another unit arrives in the campaign's; one of another dimension is refused before training."""
    space = Box(Box.Options.model_validate({"parameters": {"T": {"unit": "kelvin", "min": 300, "max": 900}}}))
    table = tmp_path / "past.csv"
    table.write_text("T,E,sd\n400,-150,3\n500,-20,3\n")

    def read(unit: str | None) -> list[tuple[float, float | None]]:
        mapping = {"energy": {"column": "E", "unit": unit, "std_error": "sd"}}
        found = read_table(TableOptions.model_validate({"file": table, "mapping": mapping}), space, PROBLEM)
        return [row.values["energy"] for row in found.rows]

    assert read("meV/atom") == [pytest.approx((-0.150, 0.003)), pytest.approx((-0.020, 0.003))]
    assert read(None)[0] == (-150.0, 3.0)  # not said otherwise: the campaign's unit
    for unit, words in (("GPa", "different things"), ("eV/atm", "eV/atm")):
        with pytest.raises(MatloopError, match=words):
            read(unit)


@pytest.mark.parametrize("name", [n for n in NAMES if "device" in plugins.load("surrogates", n).Options.model_fields])
def test_cuda_that_is_not_there_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`device: cuda` without CUDA is refused, never replaced by the CPU in silence; `auto` says what it chose."""
    import torch  # noqa: PLC0415  collection should not import it

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SurrogateError, match=r"sees no CUDA device.*device: auto"):
        build(name, device="cuda").fit(rows(given(name), VALUES), PROBLEM, seed=1)
    report = build(name, device="auto").fit(rows(given(name), VALUES), PROBLEM, seed=1)
    assert "chosen by auto" in report.device


@pytest.mark.parametrize("name", NAMES)
def test_changed_weights_are_refused(name: str, fitted: dict[str, Surrogate], tmp_path: Path) -> None:
    """One bit changed in a fit's arrays, arrays of another fit, or a broken description: refused, and said."""
    fitted[name].save(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SurrogateError, match=r"SHA-256 of its arrays .*train again"):
        build(name).load(tmp_path, PROBLEM)
    path.write_bytes(content)
    build(name).load(tmp_path, PROBLEM)
    other = tmp_path / "other"
    other.mkdir()
    again = build(name)
    again.fit(rows(given(name), VALUES[::-1]), PROBLEM, seed=2)
    again.save(other)
    path.write_bytes((other / path.name).read_bytes())
    with pytest.raises(SurrogateError, match="SHA-256"):
        build(name).load(tmp_path, PROBLEM)
    (tmp_path / "state.json").write_text("[1, 2")
    with pytest.raises(SurrogateError, match="no fit of"):
        build(name).load(tmp_path, PROBLEM)
