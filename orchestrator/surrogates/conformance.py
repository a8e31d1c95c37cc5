"""The surrogate contract as code, for whoever writes one.

::

    findings = conformance.check(lambda: MySurrogate(MySurrogate.Options()))
    assert not conformance.failures(findings)

It trains several times on a dozen made-up materials, so options that train quickly are worth giving. Each check names
the mistake that it catches. `matloop surrogate check NAME` prints the same as a table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pydantic import BaseModel

from orchestrator.abilities import (
    Classifies,
    Forgets,
    GivesIntervals,
    HasBotorchView,
    KnowsItsDomain,
    PredictsSuccess,
)
from orchestrator.domain import (
    Array,
    Candidate,
    Dataset,
    FitReport,
    Objective,
    Outcome,
    Prediction,
    Problem,
    Row,
    canonical_json,
)
from orchestrator.errors import MatloopError, NotEnoughData, SurrogateError
from orchestrator.protocols import Support, Surrogate
from orchestrator.surrogates.made_up import Reads, candidates_for, stranger_for

PROBLEM = Problem((Objective("energy", "eV", "minimize"), Objective("gap", "eV", "maximize")))
LABELLED, MORE = 10, 12
"""Labelled candidates of the fit, and of the update; made-up ones are 14."""
SEED = 3
RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""Tolerances where the order of a sum may differ."""
FILES = frozenset({".safetensors", ".json"})
MANY = 400
"""Draws whose moments are compared with the prediction's: their error is 1/sqrt(400) = 5 %."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        check: what must hold.
        passed: whether it does; None where it was not tried.
        detail: what was seen.
    """

    check: str
    passed: bool | None
    detail: str = ""


class _Findings:
    def __init__(self) -> None:
        self.all: list[Finding] = []

    def that(self, check: str, passed: bool | None, detail: str = "") -> None:
        self.all.append(Finding(check, passed, "" if passed else detail))

    @contextmanager
    def stage(self, check: str) -> Iterator[None]:
        """Turn whatever goes wrong inside into a finding."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  a surrogate may raise anything; that is what is reported
            text = str(error).strip().splitlines()
            self.that(check, False, f"{type(error).__name__}: {text[0] if text else 'no details'}")


def check(build: Callable[[], Surrogate], *, reads: Reads | None = None) -> list[Finding]:
    """Check one surrogate.

    Args:
        build: makes a new one, which has learned nothing.
        reads: what its candidates carry; by default the first of structure, composition and parameters it supports.

    Returns:
        Every finding, passed or not.
    """
    findings = _Findings()
    new = build()
    kind = _declarations(new, findings, reads)
    if kind is None:
        return findings.all
    candidates = candidates_for(kind)
    dataset = dataset_of(candidates[:LABELLED])
    _before(build, candidates, findings)
    trained = _fit(build, dataset, findings)
    if trained is None:
        return findings.all
    fitted = trained.predict(candidates)  # before any update: what a saved state must give again
    stages: tuple[tuple[str, Callable[[], None]], ...] = (
        ("predictions can be made", lambda: _predictions(trained, candidates, findings)),
        ("draws can be made", lambda: _draws(trained, candidates, findings)),
        ("an update can be made", lambda: _updates(trained, candidates, findings)),
        ("a state can be saved and loaded", lambda: _states(build, trained, fitted, candidates, findings)),
        ("a fit can be repeated", lambda: _repeats(build, trained, candidates, findings)),
        ("what is declared can be asked", lambda: _abilities(trained, candidates, findings)),
        ("hard labels can be learned from", lambda: _hard_labels(build, candidates, findings)),
        ("a stranger can be asked about", lambda: _strangers(trained, kind, findings)),
    )
    for name, stage in stages:
        with findings.stage(name):
            stage()
    return findings.all


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that did not pass; checks that were not tried are no failures."""
    return [finding for finding in findings if finding.passed is False]


def dataset_of(candidates: Sequence[Candidate], *, shift: float = 0.0, factor: float = 1.0) -> Dataset:
    """Label candidates: an energy each, a gap for two of three, and one trial that failed.

    Args:
        candidates: n of them.
        shift: added to the energies.
        factor: multiplies every value, as another unit would.
    """
    rows = []
    for i, candidate in enumerate(candidates):
        energy = factor * (-3.0 + 0.3 * i + (0.5 if i % 2 else 0.0) + shift)
        given: dict[str, Any] = {"std_error": None, "outcome": Outcome.MEASURED}
        rows.append(Row(i + 1, candidate, candidate.parameters, "energy", energy, measurement=2 * i, **given))
        if i % 3:
            gap = factor * (5.0 - 0.2 * i)
            given["std_error"] = 0.05 * factor
            rows.append(Row(i + 1, candidate, candidate.parameters, "gap", gap, measurement=2 * i + 1, **given))
    last = candidates[0]
    rows.append(Row(len(candidates) + 1, last, last.parameters, "", None, None, Outcome.FAILED, reason="it broke"))
    return Dataset(tuple(rows))


# --- stages ----------------------------------------------------------------------------------------------------------


def _declarations(surrogate: Surrogate, findings: _Findings, reads: Reads | None) -> Reads | None:
    # Catches: a misspelt option that is silently ignored.
    options = getattr(type(surrogate), "Options", None)
    strict = (
        isinstance(options, type) and issubclass(options, BaseModel) and options.model_config.get("extra") == "forbid"
    )
    findings.that(
        "options refuse unknown keys", strict, "give the class an inner Options (orchestrator.protocols.Options)"
    )
    supports = surrogate.supports()
    # Catches: a misspelt ability, which no policy would ever find.
    unknown = sorted(set(supports) - set(get_args(Support)))
    findings.that("what it supports are known words", not unknown, f"{unknown} are none of {get_args(Support)}")
    can = [one for one in get_args(Reads) if one in supports]
    # Catches: a surrogate that no search space suits.
    findings.that("it reads structures, compositions or parameters", bool(can), f"it supports {sorted(supports)}")
    # Catches: a policy that is let loose on a surrogate without the draws or the sds that it lives on.
    findings.that("it gives uncertainty and draws", {"uncertainty", "draws"} <= supports, f"{sorted(supports)}")
    # Catches: a generator or a list, with which the check of shared knowledge silently finds nothing.
    findings.that("knows is a frozenset", isinstance(surrogate.knows(), frozenset), f"{surrogate.knows()!r}")
    mixins = (("botorch", HasBotorchView), ("feasibility", PredictsSuccess), ("classes", Classifies))
    for word, mixin in mixins:
        # Catches: an ability that is promised and missing, or there and never used.
        agreed = (word in supports) <= isinstance(surrogate, mixin)
        findings.that(f"'{word}' is declared only with its method", agreed, f"there is no {mixin.__name__}")
    if reads is not None and reads not in can:
        findings.that(f"it reads {reads}", False, f"it supports {sorted(supports)}")
        return None
    return reads or (can[0] if can else None)


def _before(build: Callable[[], Surrogate], candidates: Sequence[Candidate], findings: _Findings) -> None:
    # Catches: an AttributeError deep inside, where a person should be told what to do.
    findings.that(
        *_refuses("asked before it was trained, it says so", SurrogateError, lambda: build().predict(candidates))
    )
    # Catches: a fit on two labels that looks like knowledge.
    few = dataset_of(candidates[:1])
    message = "too few labels are refused as NotEnoughData"
    findings.that(*_refuses(message, NotEnoughData, lambda: build().fit(few, PROBLEM, SEED)))


def _fit(build: Callable[[], Surrogate], dataset: Dataset, findings: _Findings) -> Surrogate | None:
    surrogate = build()
    before = _fingerprint(dataset)
    try:
        report: FitReport = surrogate.fit(dataset, PROBLEM, SEED)
    except Exception as error:  # noqa: BLE001  a surrogate may raise anything; that is what is reported
        findings.that("it can be trained", False, f"{type(error).__name__}: {error}")
        return None
    findings.that("it can be trained", True)
    # Catches: labels or set-points normalised in place, so that the record is no longer what was measured.
    findings.that("training leaves the dataset as it was", _fingerprint(dataset) == before, "its rows were changed")
    # Catches: failed trials or absent values counted as labels.
    findings.that("the report counts the labels", report.labels == LABELLED, f"{report.labels} of {LABELLED}")
    findings.that("the report names the dataset", report.data_sha256 == dataset.sha256, report.data_sha256)
    # Catches: an error on labels that took part in the training.
    known = set(report.metrics) == set(PROBLEM.properties)
    findings.that("the report judges every property", known, f"metrics of {sorted(report.metrics)}")
    # Catches: a champion that every challenger beats because it once said that it began warm.
    findings.that("a first fit is cold", not report.warm, "the report says warm")
    return surrogate


def _predictions(surrogate: Surrogate, candidates: Sequence[Candidate], findings: _Findings) -> None:
    n, m = len(candidates), len(PROBLEM.properties)
    whole = surrogate.predict(candidates)
    shapes = {part.shape for part in _parts(whole)}
    findings.that("predictions are n × m", shapes == {(n, m)}, f"{shapes}")
    finite = all(np.isfinite(part).all() for part in _parts(whole))
    findings.that("predictions are finite", finite, "NaN or infinity among them")
    # Catches: a sd of zero, with which expected improvement divides.
    positive = bool((whole.epistemic > 0).all() and (whole.noise >= 0).all())
    findings.that("standard deviations are positive", positive, "some are not")
    findings.that("nobody asked, nothing answered", surrogate.predict([]).mean.shape == (0, m), "no 0 × m array")
    order = np.random.default_rng(0).permutation(n)
    shuffled = surrogate.predict([candidates[i] for i in order])
    chunks = [surrogate.predict(candidates[i : i + 5]) for i in range(0, n, 5)]
    # Catches: batch normalisation in training mode, padding that leaks, a ranking inside the prediction.
    alike = all(_close(one, other[order]) for one, other in zip(_parts(shuffled), _parts(whole), strict=True))
    findings.that("a prediction does not depend on the order", alike, "permuted candidates answer differently")
    joined = [np.concatenate(part) for part in zip(*(_parts(chunk) for chunk in chunks), strict=True)]
    alike = all(_close(one, other) for one, other in zip(joined, _parts(whole), strict=True))
    findings.that("a prediction does not depend on the company", alike, "chunks answer differently")


def _draws(surrogate: Surrogate, candidates: Sequence[Candidate], findings: _Findings) -> None:
    n, m = len(candidates), len(PROBLEM.properties)
    whole = surrogate.draw(candidates, 5, seed=11)
    findings.that(
        "draws are s × n × m and finite", whole.shape == (5, n, m) and bool(np.isfinite(whole).all()), f"{whole.shape}"
    )
    order = np.random.default_rng(0).permutation(n)
    shuffled = surrogate.draw([candidates[i] for i in order], 5, seed=11)
    chunks = np.concatenate([surrogate.draw(candidates[i : i + 5], 5, seed=11) for i in range(0, n, 5)], axis=1)
    # Catches: draws of a joint normal made anew for each list, which are no functions: batches of them contradict
    # each other, and a decision cannot be recomputed.
    findings.that("draws are functions: permuted", _close(shuffled, whole[:, order]), "permuted candidates differ")
    findings.that("draws are functions: in chunks", _close(chunks, whole), "chunks differ")
    alone = surrogate.draw(candidates[3:4], 2, seed=11)
    findings.that("fewer draws begin like more", _close(alone, whole[:2, 3:4]), "the number of draws changes them")
    again = surrogate.draw(candidates, 5, seed=11)
    findings.that("the same seed draws the same", bool(np.array_equal(again, whole)), "two calls differ")
    other = surrogate.draw(candidates, 5, seed=12)
    findings.that("another seed draws others", not np.allclose(other, whole), "the seed changes nothing")
    many, answer = surrogate.draw(candidates, MANY, seed=5), surrogate.predict(candidates)
    # Catches: draws that carry the noise too, or a calibration factor that one of both misses.
    width = many.std(0) / answer.epistemic
    told = f"between {width.min():.2f} and {width.max():.2f} times the epistemic sd"
    findings.that("draws spread as predicted", bool(np.abs(np.log(width)).max() < np.log(1.5)), told)
    off = np.abs(many.mean(0) - answer.mean) / answer.epistemic
    findings.that("draws centre as predicted", bool(off.max() < 0.35), f"{off.max():.2f} sd away")  # noqa: PLR2004  7 standard errors


def _updates(surrogate: Surrogate, candidates: Sequence[Candidate], findings: _Findings) -> None:
    labelled, more = dataset_of(candidates[:LABELLED]), dataset_of(candidates[:MORE], shift=0.7)
    surrogate.update(labelled)
    before = surrogate.predict(candidates)
    surrogate.update(more)
    moved = surrogate.predict(candidates)
    # Catches: an update that only stores the labels.
    findings.that("new labels move predictions", not np.allclose(moved.mean, before.mean), "nothing changed")
    surrogate.update(more)
    twice = surrogate.predict(candidates)
    # Catches: labels appended at each update and counted twice after a restart.
    findings.that("an update twice is an update once", _same(twice, moved), "the second one changed the answer")
    surrogate.update(labelled)
    findings.that("an update is absolute", _same(surrogate.predict(candidates), before), "the way back leads elsewhere")


def _states(
    build: Callable[[], Surrogate],
    surrogate: Surrogate,
    fitted: Prediction,
    candidates: Sequence[Candidate],
    findings: _Findings,
) -> None:
    labelled = dataset_of(candidates[:LABELLED])
    surrogate.update(labelled)
    drawn = surrogate.draw(candidates, 3, seed=2)
    surrogate.update(dataset_of(candidates[:MORE], shift=0.7))
    with tempfile.TemporaryDirectory(prefix="matloop-conformance-") as name:
        folder = Path(name)
        surrogate.save(folder)
        suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
        # Catches: a pickle, whose loading runs whatever the file says.
        findings.that("a state is safetensors and JSON", bool(suffixes) and suffixes <= FILES, f"{sorted(suffixes)}")
        loaded = build()
        loaded.load(folder, PROBLEM)
        answer = loaded.predict(candidates)
        # Catches: a state that holds the last update, or that lacks what is only in memory; rounded numbers.
        exact = all(np.array_equal(one, other) for one, other in zip(_parts(answer), _parts(fitted), strict=True))
        findings.that("a loaded fit predicts bit for bit the same", exact, "the numbers differ from those of the fit")
        loaded.update(labelled)
        again = bool(np.array_equal(loaded.draw(candidates, 3, seed=2), drawn))
        # Catches: hyperparameters that an update needs and the state lacks.
        findings.that("a loaded and updated fit draws the same functions", again, "the draws differ")
        other = Problem((Objective("hardness", "GPa", "maximize"),))
        # Catches: an energy answered where a hardness was asked for.
        message = "a state of other properties is refused"
        findings.that(*_refuses(message, SurrogateError, lambda: build().load(folder, other)))


def _repeats(
    build: Callable[[], Surrogate], surrogate: Surrogate, candidates: Sequence[Candidate], findings: _Findings
) -> None:
    surrogate.update(dataset_of(candidates[:LABELLED]))
    first = surrogate.predict(candidates)
    state = _global_state()
    again = build()
    again.fit(dataset_of(candidates[:LABELLED]), PROBLEM, SEED)
    again.update(dataset_of(candidates[:LABELLED]))
    second = again.predict(candidates)
    # Catches: weights from a global generator, iteration over a set; then a decision cannot be recomputed.
    same = all(np.array_equal(one, other) for one, other in zip(_parts(first), _parts(second), strict=True))
    findings.that("the same seed trains the same fit", same, "two fits differ")
    untouched = _global_state() == state
    findings.that("NumPy's global generator is left alone", untouched, "its state moved")
    scaled = build()
    scaled.fit(dataset_of(candidates[:LABELLED], factor=1000.0), PROBLEM, SEED)
    answer = scaled.predict(candidates)
    # Catches: a length scale, a noise or a clip in absolute units: meV would be learned worse than eV.
    spread = float(first.mean.std(0).max())
    off = float(np.abs(answer.mean / 1000.0 - first.mean).max()) / max(spread, 1e-12)
    findings.that("another unit is the same answer", off < 0.25, f"{off:.0%} of the spread away")  # noqa: PLR2004  trees and networks round


def _abilities(surrogate: Surrogate, candidates: Sequence[Candidate], findings: _Findings) -> None:
    n = len(candidates)
    if isinstance(surrogate, PredictsSuccess) and "feasibility" in surrogate.supports():
        chances = surrogate.success(candidates)
        # Catches: a logit in place of a probability.
        good = chances.shape == (n,) and bool(((chances >= 0) & (chances <= 1)).all())
        findings.that(
            "success is a probability each", good, f"{chances.shape}: {chances.min():.2f}…{chances.max():.2f}"
        )
    if isinstance(surrogate, KnowsItsDomain):
        far = surrogate.outside(candidates)
        good = far.shape == (n,) and bool((far >= 0).all())
        findings.that("outside is a distance each", good, f"{far.shape}, smallest {far.min():.2f}")
        # Catches: a distance to the mean, by which half of what was learned from lies outside.
        inside = float(np.median(far[:LABELLED]))
        findings.that("labelled candidates lie inside", inside <= 1.0, f"their median is {inside:.2f}")
    if isinstance(surrogate, GivesIntervals):
        try:
            low, high = surrogate.interval(candidates, 0.5)
        except NotEnoughData as error:
            findings.that("intervals are ordered", None, str(error))
        else:
            findings.that("intervals are ordered", bool((low <= high).all()), "some end before they begin")
    if isinstance(surrogate, Forgets):
        before = surrogate.predict(candidates)
        surrogate.forget()
        # Catches: labels dropped with the cache.
        findings.that("forgetting changes no answer", _same(surrogate.predict(candidates), before), "it does")


def _hard_labels(build: Callable[[], Surrogate], candidates: Sequence[Candidate], findings: _Findings) -> None:
    rows = dataset_of(candidates[:LABELLED]).rows
    problem = Problem(PROBLEM.objectives[:1])
    energies = [row for row in rows if row.property == "energy"]
    sets = {
        # Catches: a division by a spread of zero.
        "equal labels": [replace(row, value=1.0) for row in energies],
        # Catches: a covariance that cannot be inverted when a candidate was measured twice.
        "a candidate measured twice": [*energies, replace(energies[0], trial=50, value=-2.5, measurement=99)],
        # Catches: NaN that spreads through a loss into every weight.
        "an absent value": [*energies[:-1], replace(energies[-1], value=None)],
    }
    for name, chosen in sets.items():
        with findings.stage(f"{name}: trained, or refused by name"):
            surrogate = build()
            try:
                surrogate.fit(Dataset(tuple(chosen)), problem, SEED)
            except SurrogateError as error:
                findings.that(f"{name}: trained, or refused by name", bool(str(error)), "an error without a word")
                continue
            finite = all(np.isfinite(part).all() for part in _parts(surrogate.predict(candidates)))
            findings.that(f"{name}: trained, or refused by name", finite, "predictions are not finite")


def _strangers(surrogate: Surrogate, kind: Reads, findings: _Findings) -> None:
    stranger = stranger_for(kind)
    try:
        surrogate.predict([stranger])
    except MatloopError as error:
        # Catches: an error in a pool of ten thousand that does not say which candidate it is about.
        named = stranger.label in str(error)
        findings.that("a candidate that it cannot read is named", named, f"{error} does not name {stranger.label!r}")
    else:
        findings.that("a candidate that it cannot read is named", False, "it was answered")


# --- small parts -----------------------------------------------------------------------------------------------------


def _parts(prediction: Prediction) -> tuple[Array, Array, Array]:
    return prediction.mean, prediction.epistemic, prediction.noise


def _close(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE))


def _same(one: Prediction, other: Prediction) -> bool:
    return all(_close(a, b) for a, b in zip(_parts(one), _parts(other), strict=True))


def _refuses(check_name: str, wanted: type[Exception], call: Callable[[], object]) -> tuple[str, bool, str]:
    try:
        call()
    except wanted:
        return check_name, True, ""
    except Exception as error:  # noqa: BLE001  any other error is the finding
        return check_name, False, f"{type(error).__name__}: {error}"
    return check_name, False, f"nothing was raised; {wanted.__name__} was expected"


def _global_state() -> bytes:
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  it must not be touched, which is what is looked at
    return bytes(state["state"]["key"]) + str(state["state"]["pos"]).encode()


def _fingerprint(dataset: Dataset) -> str:
    rows = [(r.trial, r.candidate.to_json(), dict(r.applied), r.property, r.value, r.std_error) for r in dataset.rows]
    return canonical_json(rows)
