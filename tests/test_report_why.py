"""The report's section "Why": drawn from explanations, honest where there are none."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from flows.cli import main
from orchestrator import plugins
from orchestrator.domain import (
    Candidate,
    Contribution,
    Crystal,
    Explanation,
    Neighbour,
    Objective,
    Prediction,
    Problem,
    Substitution,
)
from orchestrator.errors import StoreError
from orchestrator.record.store import CampaignStore
from orchestrator.report.explanations import Effects, Explained, Why, element_effects, explain
from orchestrator.report.page import build, reasons_page
from orchestrator.report.periodic import SYMBOLS, heat_map, place
from orchestrator.report.why import colored, waterfall
from tests.small_campaign import write_campaign

PROBLEM = Problem((Objective("energy", "eV", "minimize"),))
CRYSTAL = Crystal(((4.0, 0, 0), (0, 4.0, 0), (0, 0, 4.0)), ("Cs", "Cl"), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)))
CANDIDATE = Candidate.make(label="CsCl", crystal=CRYSTAL, crystal_key="CsCl")
EXPLANATION = Explanation(
    property="energy",
    unit="eV",
    mean=-1.5,
    sd=0.2,
    baseline=-0.5,
    method="by hand",
    atoms=(Contribution("Cs 0", -1.2, 0), Contribution("Cl 1", 0.2, 1)),
    elements=(Contribution("Cs", -1.2), Contribution("Cl", 0.2)),
    neighbours=(Neighbour("CsCl", CANDIDATE.id, 1.0, -1.4), Neighbour("<b>RbCl", "0" * 64, 0.5, -1.0)),
    substitutions=(Substitution("Cl", "Br", "CsBr", -1.7, 0.3), Substitution("Cs", "Rb", "RbCl", -1.1, 0.2)),
)


def attributes(svg: str, name: str) -> list[dict[str, str]]:
    """Return the attributes of all elements of one name, in the order of drawing."""
    root = ET.fromstring(svg)  # noqa: S314  our own text
    return [one.attrib for one in root.iter(name)]


def test_bars_lead_from_the_baseline_to_the_prediction() -> None:
    """Each bar begins where the one before ends; colours say whether it helps; the largest comes first."""
    svg = waterfall(EXPLANATION, -1, "CsCl")
    bars = attributes(svg, "rect")
    assert [bar["class"] for bar in bars] == ["for", "against"]
    start, end = (float(dot["cx"]) for dot in attributes(svg, "circle"))
    left, width = float(bars[0]["x"]), float(bars[0]["width"])
    assert left + width == pytest.approx(start, abs=0.2)
    assert left == pytest.approx(float(bars[1]["x"]), abs=0.2)
    assert float(bars[1]["x"]) + float(bars[1]["width"]) == pytest.approx(end, abs=0.2)
    other = waterfall(EXPLANATION, 1, "CsCl")
    assert [bar["class"] for bar in attributes(other, "rect")] == ["against", "for"]


def test_atoms_are_coloured_by_what_they_contribute() -> None:
    """The atom that helps most has the full colour; the page's other pictures keep their own."""
    svg = colored(CANDIDATE, EXPLANATION, -1, salt="7")
    ET.fromstring(svg)  # noqa: S314  our own text
    assert "#2f6fed" in svg, "caesium lowers the energy, which is wanted"
    assert 'id="site-7-0"' in svg
    assert "atom-Cs" not in svg
    assert colored(Candidate.make(label="T", parameters={"t": 1.0}), EXPLANATION, 1, salt="7") == ""


def test_every_element_has_its_own_place() -> None:
    """No two elements share a cell of the periodic table, and some stand where everybody knows them."""
    assert len({place(symbol) for symbol in SYMBOLS}) == len(SYMBOLS) == 103
    assert place("He") == (0, 17)
    assert place("Ti") == (3, 3)
    assert place("Pb") == (5, 13)
    assert place("Hf")[1] == place("Zr")[1] == place("Ti")[1]
    assert place("La")[0] == place("Yb")[0] > 6


def test_heat_map_tells_strength_sign_and_count() -> None:
    """Wanted effects take one colour, unwanted the other, elements without a number are outlined only."""
    svg = heat_map(
        {"Ti": -0.5, "O": 0.25, "Ba": 0.001}, {"Ti": 3, "O": 9, "Ba": 2, "Pb": 1}, "eV", "effects", better=-1
    )
    kinds = {
        re.search(r">([A-Z][a-z]?)</text>", group)[1]: group.split('"')[0]  # type: ignore[index]
        for group in svg.split('<g class="')[1:]
    }
    assert kinds["Ti"] == "for"
    assert kinds["O"] == "against"
    assert kinds["Ba"] == "even"
    assert kinds["Pb"] == "held"
    assert kinds["Xe"] == "none"
    assert "Ti: −0.50 eV, in 3 candidates" in svg
    ET.fromstring(svg)  # noqa: S314  our own text


class Additive:
    """Predicts a plain sum over the elements of a formula."""

    worth: dict[str, float] = {"A": 0.0, "Na": 1.0, "K": -1.0, "Cl": 0.5, "Br": 0.0, "I": -0.5, "Li": 0.0}  # noqa: RUF012

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        mean = [[sum(v for s, v in self.worth.items() if s in re.findall("[A-Z][a-z]?", c.label))] for c in candidates]
        return Prediction(np.array(mean), np.ones((len(mean), 1)), np.ones((len(mean), 1)))


def test_element_effects_find_a_sum_over_elements() -> None:
    """From predictions that are a sum, signs, order and share of variance come back."""
    pool = [
        Candidate.make(label=f"{a}{x}", composition=f"{a}{x}") for a in ("Li", "Na", "K") for x in ("Cl", "Br", "I")
    ]
    found = element_effects(Additive(), pool, PROBLEM, "energy")  # type: ignore[arg-type]
    assert found.candidates == 9
    assert found.explained > 0.9
    assert found.values["Na"] > found.values["Li"] > found.values["K"]
    assert found.values["Cl"] > found.values["I"]
    alone = element_effects(Additive(), pool[:1], PROBLEM, "energy")  # type: ignore[arg-type]
    assert not alone.values


def test_a_page_shows_everything_and_escapes_it() -> None:
    """Prediction, neighbours and substitutes stand there; the candidate is not its own neighbour; text stays text."""
    effects = Effects("eV", {"Cs": -0.4, "Cl": 0.1}, {"Cs": 4, "Cl": 9}, 0.7, 12)
    why = Why("How.", (Explained(CANDIDATE, EXPLANATION, 3, -1.4),), effects, {"RbCl": -1.05})
    html = reasons_page("small <one>", why, PROBLEM)
    for words in ("predicted −1.50 ± 0.20 eV", "measured −1.400 eV", "Cl → Br", "−1.05", "70 % of the variance"):
        assert words in html, words
    assert "&lt;b&gt;RbCl" in html
    assert "<b>RbCl" not in html
    assert "small &lt;one&gt;" in html
    neighbours = html[html.index("Nearest measured") : html.index("If one element")]
    assert "CsCl" not in neighbours
    assert 'class="periodic"' in html


def test_a_surrogate_without_reasons_is_named() -> None:
    """One that lacks `explain` is refused in a sentence that says what it lacks."""
    with pytest.raises(StoreError, match="Additive does not explain"):
        explain(Additive(), [CANDIDATE], "energy")  # type: ignore[arg-type]


def test_the_report_explains_the_best_and_survives_a_damaged_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign's report has the section, made from the stored fit; where that cannot be read a line says so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path / "data"))
    file = write_campaign(
        tmp_path,
        surrogate={"use": "composition_forest", "options": {"trees": 20}},
        acquisition={"use": "greedy"},
        initial={"use": "random", "trials": 6},
        budget={"trials": 8},
    )
    told = CliRunner().invoke(main, ["run", file.name, "--plain", "--store", str(tmp_path / "store.db")])
    assert told.exit_code == 0, told.output
    store = CampaignStore.open(tmp_path / "store.db")
    html = build(store, "small")
    assert 'id="why"' in html
    assert html.count('class="waterfall"') == 3
    assert "temperature" in html

    def broken(*_: object, **__: object) -> None:
        message = "the moon is full"
        raise RuntimeError(message)

    monkeypatch.setattr(plugins, "build", broken)
    damaged = build(store, "small")
    assert "could not be explained: RuntimeError: the moon is full" in damaged
    assert damaged.rstrip().endswith("</html>")
    store.close()
