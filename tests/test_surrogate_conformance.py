"""The conformance checks catch what they say they catch: a sound surrogate passes, each broken one fails by name."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from flows.cli import main
from orchestrator import plugins
from orchestrator.domain import Array, Candidate, Dataset, FitReport, Prediction, Problem
from orchestrator.errors import PluginError
from orchestrator.protocols import Surrogate
from orchestrator.surrogates import conformance


def _load(path: Path) -> Any:
    """Import the module of the package that is written outside."""
    spec = importlib.util.spec_from_file_location("element_weights_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


Sound = _load(Path(__file__).parent / "outside_surrogate" / "element_weights.py").ElementWeights


class JointDraws(Sound):  # type: ignore[misc, valid-type]
    """Draws a value for each candidate in turn: no functions."""

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        answer = self.predict(candidates)
        shape = (s, len(candidates), answer.mean.shape[1])
        return answer.mean + answer.epistemic * np.random.default_rng(seed).normal(size=shape)


class NoisyDraws(Sound):  # type: ignore[misc, valid-type]
    """Draws that are twice as wide as it says."""

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        mean = self.predict(candidates).mean
        return mean + 2.0 * (super().draw(candidates, s, seed) - mean)


class Ranked(Sound):  # type: ignore[misc, valid-type]
    """Predicts relative to the other candidates it is asked about."""

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        answer = super().predict(candidates)
        return replace(answer, mean=answer.mean - answer.mean.mean(0)) if len(candidates) else answer


class Appending(Sound):  # type: ignore[misc, valid-type]
    """Adds the labels of each update to those it had."""

    def update(self, dataset: Dataset) -> None:
        trials = max(getattr(self, "_all", Dataset()).trials, default=0)
        moved = tuple(replace(row, trial=row.trial + trials) for row in dataset.rows)
        self._all = Dataset((*getattr(self, "_all", Dataset()).rows, *moved))
        super().update(self._all)


class Deaf(Sound):  # type: ignore[misc, valid-type]
    """Takes no notice of an update."""

    def update(self, dataset: Dataset) -> None:
        del dataset


class Pickling(Sound):  # type: ignore[misc, valid-type]
    """Saves itself as a pickle."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "all.pkl").write_bytes(pickle.dumps(self._noise))


class SavesTheUpdate(Sound):  # type: ignore[misc, valid-type]
    """Calibrates anew at each update and saves that: the state is not that of the fit."""

    def update(self, dataset: Dataset) -> None:
        super().update(dataset)
        self._factor = [1.0 + 0.01 * len(dataset) for _ in self._factor]


class Rounding(Sound):  # type: ignore[misc, valid-type]
    """Saves its weights in single precision."""

    def save(self, folder: Path) -> None:
        exact = self._fitted
        self._fitted = [tuple(part.astype(np.float32) for part in parts) for parts in exact]
        super().save(folder)
        self._fitted = exact


class Unseeded(Sound):  # type: ignore[misc, valid-type]
    """Reads the global generator while it trains."""

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        report = super().fit(dataset, problem, seed)
        self._factor = [factor * np.random.uniform(1.0, 1.1) for factor in self._factor]  # noqa: NPY002  the mistake
        return report  # type: ignore[no-any-return]


class Absolute(Sound):  # type: ignore[misc, valid-type]
    """Clips predictions at a number that means something in one unit only."""

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        answer = super().predict(candidates)
        return replace(answer, mean=np.clip(answer.mean, -10.0, 10.0))


class Meddling(Sound):  # type: ignore[misc, valid-type]
    """Changes the dataset that it is given."""

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        object.__setattr__(dataset.rows[0], "value", 0.0)
        return super().fit(dataset, problem, seed)  # type: ignore[no-any-return]


class Certain(Sound):  # type: ignore[misc, valid-type]
    """Is sure of everything."""

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        answer = super().predict(candidates)
        return replace(answer, epistemic=np.zeros_like(answer.epistemic))


class Boasting(Sound):  # type: ignore[misc, valid-type]
    """Promises a botorch view that it does not have."""

    def supports(self) -> frozenset[Any]:
        return super().supports() | {"botorch"}


class Wordless(Sound):  # type: ignore[misc, valid-type]
    """Answers what it cannot read, with a guess."""

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        known = [one if one.crystal or one.composition else replace(one, composition="H") for one in candidates]
        return super().predict(known)  # type: ignore[no-any-return]


BROKEN: dict[type[Any], str] = {
    JointDraws: "draws are functions: in chunks",
    NoisyDraws: "draws spread as predicted",
    Ranked: "a prediction does not depend on the company",
    Appending: "an update twice is an update once",
    Deaf: "new labels move predictions",
    Pickling: "a state is safetensors and JSON",
    SavesTheUpdate: "a loaded fit predicts bit for bit the same",
    Rounding: "a loaded fit predicts bit for bit the same",
    Unseeded: "the same seed trains the same fit",
    Absolute: "another unit is the same answer",
    Meddling: "training leaves the dataset as it was",
    Certain: "standard deviations are positive",
    Boasting: "'botorch' is declared only with its method",
    Wordless: "a candidate that it cannot read is named",
}


def failed(build: Callable[[], Surrogate]) -> list[str]:
    """Name the checks that a surrogate fails, read from compositions for speed."""
    return [one.check for one in conformance.failures(conformance.check(build, reads="composition"))]


def test_a_sound_surrogate_passes() -> None:
    """Nothing is found in a surrogate that keeps the contract, from structures and from compositions."""
    assert failed(Sound) == []
    assert conformance.failures(conformance.check(Sound)) == []


@pytest.mark.parametrize("broken", BROKEN, ids=lambda one: one.__name__)
def test_each_mistake_is_caught(broken: type[Any]) -> None:
    """A surrogate with one mistake fails the check that is meant for it."""
    assert BROKEN[broken] in failed(broken)


def test_what_raises_is_a_finding() -> None:
    """An exception inside a surrogate is told as a finding; the other checks go on."""

    class Breaking(Sound):  # type: ignore[misc, valid-type]
        def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
            message = "index 3 is out of bounds"
            raise IndexError(message)

    findings = conformance.check(Breaking, reads="composition")
    wrong = {one.check: one.detail for one in conformance.failures(findings)}
    assert wrong["draws can be made"] == "IndexError: index 3 is out of bounds"
    assert any(one.check == "an update is absolute" and one.passed for one in findings)


def test_the_command_prints_and_exits() -> None:
    """The command ends with 0 for a shipped surrogate; --reads what it cannot read is a failed check."""
    quick = ("--options", '{"trees": 20}')
    good = CliRunner().invoke(main, ["surrogate", "check", "composition_forest", "--reads", "parameters", *quick])
    assert good.exit_code == 0, good.output
    assert ", 0 failed" in good.stdout
    bad = CliRunner().invoke(main, ["surrogate", "check", "gnn_gp", "--reads", "parameters", "--json"])
    assert bad.exit_code == 1
    assert not json.loads(bad.stdout)["passed"]
    wrong = CliRunner().invoke(main, ["surrogate", "check", "composition_forest", "--options", "{"])
    assert wrong.exit_code == 2
    with pytest.raises(PluginError, match=r"no checks for plug-ins of kind 'spaces'.*surrogates"):
        plugins.conformance("spaces")
