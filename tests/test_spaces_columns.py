"""A columnar pool: the same candidates as an ordinary pool, from arrays; its file's order means nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator import kept
from orchestrator.domain import Candidate
from orchestrator.errors import SpaceError
from orchestrator.protocols import ColumnarSpace, FiniteSpace, GrowingSpace, HasParameterUnits
from orchestrator.spaces.columns import Columns
from orchestrator.spaces.pool import Pool

PARAMETERS = {"temperature": {"unit": "degC", "resolution": 0.1}, "solvent": {"text": True}, "load": {}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test writes out of the user's cache folder."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _name: str(tmp_path / "cache"))


def table(rows: int = 60) -> pd.DataFrame:
    """Return compounds under conditions; numbers that rounding matters for, and a negative zero."""
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "formula": [f"Ba{i % 4 + 1}TiO{i % 3 + 1}" for i in range(rows)],
            "temperature": rng.uniform(100, 200, rows),
            "solvent": [("wäter", "acid")[i % 2] for i in range(rows)],
            "load": np.where(np.arange(rows) == 7, -0.0, rng.normal(size=rows)),
            "lab": [f"L{i}" for i in range(rows)],
        }
    )


def columns(path: Path, **more: Any) -> Columns:
    """Return the space of a file of `table`."""
    return Columns(Columns.Options(path=path, composition_column="formula", parameters=PARAMETERS, **more))


def written(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table in the kind that its suffix names."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        texts = {name: frame[name].to_numpy(dtype="U") for name in ("formula", "solvent", "lab")}
        np.savez(path, **{name: frame[name].to_numpy() for name in ("temperature", "load")}, **texts)
    return path


def test_candidates_are_those_of_a_pool(tmp_path: Path) -> None:
    """Ids, parameters, formulas, labels and attributes agree with those of `pool`, and with `Candidate.make`."""
    path = written(table(), tmp_path / "t.csv")
    options = {"path": path, "composition_column": "formula", "parameters": PARAMETERS, "keep": ("lab",)}
    ordinary = Pool(Pool.Options(**options))
    space = Columns(Columns.Options(**options))
    assert isinstance(space, FiniteSpace)
    assert isinstance(space, ColumnarSpace)
    assert not isinstance(ordinary, ColumnarSpace)
    assert isinstance(space, HasParameterUnits)
    assert space.parameter_units() == ordinary.parameter_units() == {"temperature": "degC"}
    assert space.offers() == ordinary.offers() == {"composition", "parameters"}
    known = {candidate.id: candidate for candidate in ordinary.candidates()}
    assert {candidate.id for candidate in space.candidates()} == set(known)
    for candidate in space.candidates():
        assert candidate == known[candidate.id]
        made = Candidate.make(label="", parameters=candidate.parameters, composition=candidate.composition)
        assert made.id == candidate.id
        assert space.get(candidate.id) == candidate
    ids = [candidate.id for candidate in space.candidates()]
    assert ids == sorted(ids)
    assert [space.candidates()[-1], *space.candidates()[:2]] == space.take([len(ids) - 1, 0, 1])
    for unknown in ("0" * 64, "ff" * 32, "no id", ""):
        with pytest.raises(KeyError):
            space.get(unknown)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_kind_and_order_of_the_file_mean_nothing(tmp_path: Path, suffix: str) -> None:
    """A CSV, a Parquet and an NPZ file of the same rows in any order are one pool."""
    frame = table()
    usual = columns(written(frame, tmp_path / "usual.csv"))
    mixed = columns(written(frame.sample(frac=1.0, random_state=3), tmp_path / f"mixed{suffix}"))
    assert mixed.summary()["sha256"] == usual.summary()["sha256"]
    assert [c.id for c in mixed.sample(5, seed=2)] == [c.id for c in usual.sample(5, seed=2)]
    assert np.array_equal(mixed.features()[0], usual.features()[0])


def test_ranges_and_features_say_what_is_there(tmp_path: Path) -> None:
    """Numbers stand raw, names as zeros and ones, formulas as fractions of elements."""
    space = columns(written(table(), tmp_path / "t.csv"))
    ranges = space.ranges()
    assert ranges["solvent"] == {"wäter", "acid"}
    assert ranges["temperature"] == (
        min(c.parameters["temperature"] for c in space.candidates()),
        max(c.parameters["temperature"] for c in space.candidates()),
    )
    features, names = space.features()
    assert names == (
        *("load", "temperature", "solvent=acid", "solvent=wäter"),
        *("fraction of Ba", "fraction of O", "fraction of Ti"),
    )
    for row, candidate in zip(features, space.candidates(), strict=True):
        assert row[1] == pytest.approx(candidate.parameters["temperature"])
        assert row[2] == (candidate.parameters["solvent"] == "acid")
        assert row[4:].sum() == pytest.approx(1.0)


def test_what_was_read_is_kept_and_mapped(tmp_path: Path) -> None:
    """The second time arrays come from the cache folder, mapped above the threshold; a damaged one is not used."""
    path = written(table(), tmp_path / "t.csv")
    first = columns(path, memory_map_above=10)
    assert first.summary()["cache"] == "written"
    again = columns(path, memory_map_above=10)
    assert isinstance(again.ids(), np.memmap)
    assert again.summary()["estimate"]["memory_mapped"]
    assert not isinstance(columns(path).ids(), np.memmap)
    assert isinstance(again.features()[0], np.memmap)
    assert list(kept.folder("columns").glob("*-features.npy"))
    expected = list(first.candidates())
    for file in kept.folder("columns").glob("*/0.npy"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    healed = columns(path)
    assert list(healed.candidates()) == expected


def test_a_wrong_table_is_refused_by_row(tmp_path: Path) -> None:
    """Errors name the file, the row, the column and what was found."""
    wrong = table().astype({"temperature": object})
    wrong.loc[11, "temperature"] = "hot"
    with pytest.raises(SpaceError, match=r"wrong.csv, row 12: 'temperature' is 'hot'; a finite number"):
        columns(written(wrong, tmp_path / "wrong.csv"))
    wrong = table()
    wrong.loc[3, "formula"] = "Xx2"
    with pytest.raises(SpaceError, match=r"row 4: 'Xx2' is no chemical formula"):
        columns(written(wrong, tmp_path / "formula.csv"))
    with pytest.raises(SpaceError, match="has no column 'formula'; there are: temperature"):
        columns(written(table().drop(columns="formula"), tmp_path / "lacking.csv"))
    twice = written(pd.concat([table(), table().iloc[[4]]]), tmp_path / "twice.csv")
    with pytest.raises(SpaceError, match=r"1 rows of twice.csv are the same candidate as another one: rows 5 and 61"):
        columns(twice)
    assert columns(twice, duplicates="drop").count() == 60
    with pytest.raises(SpaceError, match="there is no file"):
        columns(tmp_path / "nothing.csv")


@pytest.mark.parametrize("kind", [Pool, Columns])
def test_a_watched_file_may_grow(tmp_path: Path, kind: type[Pool | Columns]) -> None:
    """A watched pool sees what was added when it is asked to look, and nothing before; another one never looks."""
    path = written(table(20), tmp_path / "t.csv")
    options = {"path": path, "composition_column": "formula", "parameters": PARAMETERS}
    watched, still = (kind(kind.Options(**options, watch=watch)) for watch in (True, False))
    assert isinstance(watched, GrowingSpace)
    assert (watched.growing(), still.growing()) == (True, False)
    assert not watched.refresh()
    written(table(60), path)
    assert len(watched.candidates()) == 20
    assert watched.refresh()
    assert not watched.refresh()
    assert not still.refresh()
    assert (len(watched.candidates()), len(still.candidates())) == (60, 20)
    newest = watched.candidates()[0]
    assert watched.get(newest.id) == newest
