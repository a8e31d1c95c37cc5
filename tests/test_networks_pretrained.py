"""Frozen CHGNet features: columns, cache on disk, and what happens when a file is damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from orchestrator.domain import Crystal
from orchestrator.errors import MaterialError
from orchestrator.networks import feature_cache, pretrained

SALT = Crystal(((0.0, 2.8, 2.8), (2.8, 0.0, 2.8), (2.8, 2.8, 0.0)), ("Na", "Cl"), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)))
OXIDE = Crystal(((0.0, 2.1, 2.1), (2.1, 0.0, 2.1), (2.1, 2.1, 0.0)), ("Mg", "O"), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)))


@pytest.fixture(scope="module")
def known() -> np.ndarray:
    """Compute two rows once."""
    return pretrained.cache_in(None).get([SALT, OXIDE])


def test_columns_mean_what_they_say(known: np.ndarray) -> None:
    """Scalars carry volume and density; the interaction energy of an ionic crystal is negative; pools are ordered."""
    assert known.shape == (2, pretrained.DIMENSION)
    scalars = dict(zip(pretrained.SCALARS, known[0, list(pretrained.scalar_columns())], strict=True))
    assert scalars["volume_per_atom"] == pytest.approx(2 * 2.8**3 / 2, rel=1e-5)
    assert scalars["density"] == pytest.approx(2.21, abs=0.02)
    assert scalars["interaction_energy"] < -0.5
    low, mean, high = (
        known[:, list(pretrained.columns(("readout",), (pool,)))] for pool in ("smallest", "mean", "largest")
    )
    assert np.all(low <= mean + 1e-6)
    assert np.all(mean <= high + 1e-6)


def test_files_are_read_again_without_the_network(
    known: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process takes the features from disk; nothing but safetensors lies there."""
    pretrained.cache_in(tmp_path).get([SALT, OXIDE])
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}

    def absent() -> None:
        message = "the network was asked"
        raise AssertionError(message)

    monkeypatch.setattr(pretrained, "_network", absent)
    np.testing.assert_array_equal(pretrained.cache_in(tmp_path).get([OXIDE, SALT]), known[::-1])


def test_a_damaged_file_is_computed_again(known: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cache file cut short is named in a warning, and the features are right all the same."""
    pretrained.cache_in(tmp_path).get([SALT])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(pretrained.cache_in(tmp_path).get([SALT]), known[:1])
    assert path.name in caplog.text


def test_many_files_become_one(known: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond a number are merged, and nothing is lost."""
    monkeypatch.setattr(feature_cache, "FEW_FILES", 1)
    pretrained.cache_in(tmp_path).get([SALT])
    other = pretrained.cache_in(tmp_path)
    other._read = True
    other.get([OXIDE])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    np.testing.assert_array_equal(pretrained.cache_in(tmp_path).get([SALT, OXIDE]), known)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_cache_that_cannot_be_written_is_no_error(known: np.ndarray, tmp_path: Path) -> None:
    """Where the folder cannot be made, features are computed and kept in memory."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    np.testing.assert_array_equal(pretrained.cache_in(blocked / "cache").get([SALT]), known[:1])


def test_a_crystal_that_chgnet_cannot_read_is_named() -> None:
    """An isolated atom gives an error with formula and volume."""
    lonely = Crystal(((30.0, 0.0, 0.0), (0.0, 30.0, 0.0), (0.0, 0.0, 30.0)), ("Xe",), ((0.0, 0.0, 0.0),))
    with pytest.raises(MaterialError, match=r"Xe .*27000"):
        pretrained.cache_in(None).get([lonely])
