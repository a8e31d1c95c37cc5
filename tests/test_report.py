"""The report: facts from a real store, plots, pictures and the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import (
    Candidate,
    Crystal,
    DecisionSummary,
    FitReport,
    Proposal,
    Quality,
    frozen,
)
from orchestrator.prospective import Judged
from orchestrator.record.states import AttemptState, CampaignState
from orchestrator.record.store import CampaignStore, NewMeasurement, StepPlan
from orchestrator.report import plots
from orchestrator.report.calibration import judge
from orchestrator.report.crystals import picture
from orchestrator.report.facts import Facts, gather
from orchestrator.report.page import LARGEST, build, write
from orchestrator.report.plots import best_line
from orchestrator.report.words import formula, number, seconds, with_error

STEP = StepPlan(name="relax", instrument="potential", capability="relax")
NAME = "synthetic"


def perovskite(a: str, b: str, x: str, edge: float) -> Crystal:
    """Make an ideal cubic perovskite."""
    return Crystal(
        lattice=((edge, 0.0, 0.0), (0.0, edge, 0.0), (0.0, 0.0, edge)),
        species=(a, b, x, x, x),
        frac_coords=((0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)),
    )


def config(**changes: object) -> CampaignConfig:
    """Make the configuration of a campaign on structures."""
    content = {
        "name": NAME,
        "seed": 7,
        "objectives": [{"property": "energy_above_hull", "unit": "eV/atom", "goal": "minimize"}],
        "constraints": [{"property": "still_perovskite", "min": 0.5}],
        "space": {"use": "prototypes"},
        "instruments": {"potential": {"use": "interatomic_potential", "options": {"name": "chgnet"}}},
        "procedure": [{"step": "relax", "instrument": "potential", "capability": "relax"}],
        "initial": {"use": "diverse", "trials": 8},
        "parallel": 2,
        "budget": {"trials": 40},
        **changes,
    }
    return CampaignConfig.model_validate(content)


A, B, X = ["Na", "K", "Rb", "Cs", "Ca", "Sr", "Ba", "La"], ["Ti", "Zr", "Sn", "Nb"], ["O", "F", "Cl"]


def fill(store: CampaignStore, settings: CampaignConfig, *, trials: int = 40, evil: str = "") -> None:
    """Record a campaign that looks like a real one: an initial design, fits, decisions, results and failures."""
    store.create_campaign(settings, file="campaigns/perovskites.yaml", actor="ada@lab")
    rng = np.random.default_rng(3)
    number_of_fits, fit, done, best = 0, None, [], np.inf
    names = [o.property for o in settings.objectives]
    for decision in range(1, trials // 2 - 2):
        initial = decision == 1
        if not initial and decision % 4 == 2:
            number_of_fits += 1
            folder = store.folder / f"{settings.name}-{number_of_fits}"
            folder.mkdir(parents=True)
            (folder / "state.json").write_text(f'{{"number": {number_of_fits}}}')
            report = FitReport(
                labels=len(done),
                data_sha256=store.dataset(settings.name).sha256,
                metrics=frozen({names[0]: {"mae": 0.08 / number_of_fits, "r2": 0.6}}),
                seconds=2.0 + number_of_fits,
                warm=number_of_fits > 1,
                notes=("device auto: cpu, for want of a GPU",),
            )
            fit = store.record_fit(
                settings.name,
                number=number_of_fits,
                parent=fit.id if fit else None,
                surrogate="gnn_gp",
                seed=number_of_fits,
                seen=(),
                report=report,
                folder=folder,
            )
        q = 8 if initial else 2
        proposals, truths = [], []
        for _ in range(q):
            a, b, x = rng.choice(A), rng.choice(B), rng.choice(X)
            label = evil or f"{a}{b}{x}3"
            key = f"{label}-{rng.integers(10**9)}"
            crystal = perovskite(a, b, x, {"O": 3.9, "F": 4.3, "Cl": 5.2}[x])
            candidate = Candidate.make(label=label, crystal=crystal, crystal_key=key)
            shift = 0.0 if initial else -0.02 * decision / 2
            truth = {name: float(abs(rng.normal(0.35 + shift, 0.2))) for name in names}
            truths.append(truth)
            sd = 0.08
            proposals.append(
                Proposal(
                    candidate=candidate,
                    policy="diverse" if initial else "log_expected_improvement",
                    reason="far from the others" if initial else "largest expected improvement",
                    score=None if initial else 0.1,
                    mean={} if initial else {n: v + float(rng.normal(0, sd)) for n, v in truth.items()},
                    sd={} if initial else dict.fromkeys(names, sd),
                )
            )
        made = store.record_decision(
            settings.name,
            number=decision,
            policy=proposals[0].policy,
            purpose="initial" if initial else "acquisition",
            proposals=proposals,
            seen=(),
            seen_sha256="0" * 64,
            pending=(),
            closed_sha256="0" * 64,
            fit=fit.id if fit else None,
            seed=decision,
            device="cpu",
            threads=1,
            seconds=0.4,
            summary=DecisionSummary(best=None if np.isinf(best) else best, expected_gain=0.01),
            steps=[STEP],
        )
        for i, (trial, truth) in enumerate(zip(made, truths, strict=True)):
            step = trial.steps[0].id
            fence = store.claim(step, owner="test")
            attempt = store.intent(step, fence=fence, order={}, instrument="potential", slots=4, cost=0.0)
            if (trial.number + i) % 11 == 0:
                store.end_attempt(
                    attempt.id, AttemptState.FAILED, retry=False, reason="relaxation did not converge", effect="done"
                )
                continue
            sha = store.raw.put(f"raw {trial.number}".encode())
            store.advance(attempt.id, AttemptState.MEASURED, raw_sha256=sha)
            values = [*truth.items(), ("still_perovskite", float(trial.number % 5 != 0))]
            units = {o.property: o.unit for o in settings.objectives}
            store.record(
                attempt.id,
                [
                    NewMeasurement(n, v, units.get(n, "dimensionless"), None, Quality.GOOD, 1_700_000_000_000_000)
                    for n, v in values
                ],
                structures={"relaxed": trial.candidate.crystal},
                applied={},
            )
            done.append(trial.number)
            best = min(best, truth[names[0]])
    store.set_state(settings.name, CampaignState.DONE, actor="matloop", reason="budget: all 40 trials are used")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CampaignStore:
    """Record three campaigns in one store: an ordinary one, one with two objectives, and a hostile one."""
    opened = CampaignStore.open(tmp_path_factory.mktemp("store") / "campaigns.db")
    fill(opened, config(), trials=30)
    two = [
        {"property": "strength", "unit": "MPa", "goal": "maximize"},
        {"property": "mass_loss", "unit": "percent", "goal": "minimize"},
    ]
    fill(opened, config(name="two", objectives=two, constraints=[], allow_shared_knowledge=True), trials=18)
    fill(opened, config(name="evil"), trials=10, evil="<script>alert(1)</script>")
    opened.create_campaign(config(name="empty"), actor="ada@lab")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def facts(store: CampaignStore) -> Facts:
    """Gather the ordinary campaign."""
    return gather(store, NAME)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_needs_nothing_else_and_runs_nothing(store: CampaignStore) -> None:
    """The page holds no script, loads nothing, says so in its policy, and stays small."""
    html = build(store, NAME)
    parser = _Tags()
    parser.feed(html)
    tags = {tag for tag, _ in parser.tags}
    assert not tags & {"script", "iframe", "link", "object", "embed", "img", "form"}
    outside = [v for _, attrs in parser.tags for k, v in attrs.items() if k in {"src", "href", "action"} and v]
    assert [v for v in outside if not v.startswith("#")] == []
    assert "url(http" not in html
    assert "@import" not in html
    assert any("default-src 'none'" in (attrs.get("content") or "") for _, attrs in parser.tags)
    assert len(html.encode()) < LARGEST


def test_page_tells_what_a_reader_asks(store: CampaignStore, facts: Facts) -> None:
    """Stop reason, best candidate, failures with reasons, decisions, fits, commands and hashes all stand there."""
    html = build(store, NAME)
    best = facts.best[0].trial
    assert "budget: all 40 trials are used" in html
    assert formula(best.candidate) in html
    assert re.search("[A-Z]₃", html), "formulas have low numbers"
    assert "relaxation did not converge" in html
    assert "Minimize energy above hull (eV/atom), subject to still perovskite ≥ 0.5" in html
    assert f"matloop verify {NAME} --decisions" in html
    assert facts.info.config_sha256 in html
    assert facts.fits[-1].checkpoint_sha256[:12] in html
    assert html.count('class="crystal"') > 0


def test_names_from_files_and_instruments_are_escaped(store: CampaignStore) -> None:
    """A candidate called like a script is shown, never run."""
    html = build(store, "evil")
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_shared_knowledge_stands_in_the_first_line(store: CampaignStore) -> None:
    """A campaign that allows shared knowledge says so before its own name."""
    html = build(store, "two")
    body = html[html.index("<body>") :]
    assert "shared knowledge" in body[: body.index("<h1>")]
    assert "shared knowledge" not in build(store, NAME).split("<h1>")[0]


def test_two_objectives_show_their_front(store: CampaignStore) -> None:
    """With two objectives the page shows the front, and only non-dominated candidates are on it."""
    html = build(store, "two")
    assert 'id="front"' in html
    assert 'id="front"' not in build(store, NAME)
    ranked = gather(store, "two").best
    front = [b for b in ranked if b.on_front]
    assert front
    for one in front:
        for other in ranked:
            better = (
                other.values["strength"] >= one.values["strength"]
                and other.values["mass_loss"] <= one.values["mass_loss"]
            )
            assert not better or other.trial.number == one.trial.number


def test_empty_campaign_has_a_page(store: CampaignStore) -> None:
    """A campaign that has only begun is shown without plots, and without an error."""
    html = build(store, "empty")
    assert "No candidate has been measured yet" in html
    assert "matloop resume empty" in html


def test_file_is_replaced_as_a_whole(store: CampaignStore, tmp_path: Path) -> None:
    """Writing leaves one file with the whole page, and nothing beside it."""
    path = tmp_path / "sub" / "report.html"
    path.parent.mkdir()
    path.write_text("old")
    assert write(store, NAME, path) == path
    assert path.read_text().rstrip().endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_pngs_are_small_and_the_same_twice(facts: Facts) -> None:
    """The images for the Prefect page are PNG of at most 50 kB, and do not change when nothing changed."""
    judged = judge(facts.points, "energy_above_hull")
    assert judged is not None
    for draw in (plots.best_so_far(facts), plots.parity(judged, "eV/atom"), plots.calibration(judged)):
        image = plots.render(draw, "png")
        assert image.startswith(b"\x89PNG")
        assert len(image) <= 50_000
        assert image == plots.render(draw, "png")


def test_svg_follows_the_theme(facts: Facts) -> None:
    """A plot in the page is well-formed, and every colour is a variable of the style sheet."""
    svg = plots.render(plots.best_so_far(facts), "svg").decode()
    ET.fromstring(svg)  # noqa: S314  our own text
    assert "var(--accent)" in svg
    literal = {c.lower() for c in re.findall(r"(?<!url\()#[0-9a-fA-F]{6}\b", svg)}
    assert literal <= {"#000000"}, "colours that would not follow the theme"


def test_best_line_never_gets_worse_and_ignores_infeasible(facts: Facts) -> None:
    """The curve goes down only, ends at the best feasible value, and starts with the first feasible result."""
    objective = facts.problem.objectives[0]
    _, values = best_line(list(facts.points), objective)
    assert values == sorted(values, reverse=True)
    assert values[-1] == min(p.values["energy_above_hull"] for p in facts.points if p.feasible)


def test_calibration_of_known_errors() -> None:
    """With predictions whose errors are known in advance, coverage, likelihood, bias and rank are what theory says."""
    rng = np.random.default_rng(0)
    n = 4000
    mean, sd = rng.normal(size=n), np.full(n, 0.5)
    measured = mean + 0.5 * rng.normal(size=n)
    judged = Judged("p", tuple(range(n)), ("",) * n, tuple(mean), tuple(sd), tuple(measured))
    for level in (0.5, 0.8, 0.9, 0.95):
        assert judged.coverage(level) == pytest.approx(level, abs=0.02)
        low, high = judged.uncertainty(level)
        assert low < judged.coverage(level) < high
    assert judged.scores["nll"] == pytest.approx(0.5 * np.log(2 * np.pi * 0.25) + 0.5, abs=0.03)
    assert judged.scores["bias"] == pytest.approx(0.0, abs=0.03)
    assert judged.rank_correlation == pytest.approx(0.89, abs=0.02)
    sure = Judged("p", judged.trials, judged.labels, judged.predicted, tuple(sd / 3), judged.measured)
    assert sure.uncertainty(0.9)[1] < 0.9


def test_initial_design_is_not_judged(facts: Facts) -> None:
    """Only predictions made before a trial count; the initial design made none."""
    judged = judge(facts.points, "energy_above_hull")
    assert judged is not None
    initial = {p.trial for p in facts.points if p.initial}
    assert initial
    assert not initial & set(judged.trials)


def test_times_come_from_the_history(facts: Facts) -> None:
    """Training, choosing and each step have their times: one for each fit, decision and attempt."""
    times = {part.name: part.times for part in facts.parts}
    assert len(times["training the surrogate"]) == len(facts.fits)
    assert len(times["choosing what is next"]) == len(facts.decisions)
    assert len(times["relax (potential)"]) == len(facts.trials)
    assert all(t >= 0 for part in facts.parts for t in part.times)


def test_picture_of_a_perovskite_shows_its_octahedron() -> None:
    """A cubic perovskite gives well-formed SVG with all its atoms, those on faces twice, and an octahedron."""
    svg = picture(perovskite("Sr", "Ti", "O", 3.9), "SrTiO3 <&>")
    ET.fromstring(svg)  # noqa: S314  our own text
    assert svg.count("<polygon") == 8
    assert svg.count("url(#atom-Sr)") == 8 + 1  # corners, and the legend
    assert svg.count("url(#atom-Ti)") == 1 + 1
    assert svg.count("url(#atom-O)") == 6 + 1
    assert "<&>" not in svg


def test_picture_of_many_atoms_is_left_out() -> None:
    """A crystal in which nothing could be seen has no picture."""
    many = Crystal(
        ((30.0, 0, 0), (0, 30.0, 0), (0, 0, 30.0)), ("O",) * 300, tuple((i / 300, 0.0, 0.0) for i in range(300))
    )
    assert picture(many, "much") == ""


def test_numbers_are_written_for_people() -> None:
    """Four digits, a real minus, powers of ten only where needed, no NaN."""
    assert number(-0.012345) == "−0.01235"
    assert number(1234.5678) == "1235"
    assert number(1e-7) == "1.00 × 10⁻⁷"
    assert number(float("nan")) == "–"
    assert number(0.0) == "0"
    assert with_error(-0.12345, 0.01) == "−0.123 ± 0.010"
    assert with_error(1234.5, 20.0) == "1234 ± 20"
    assert with_error(6.02e-5, 1.8e-6) == "(6.02 ± 0.18) × 10⁻⁵"
    assert seconds(0.25) == "250 ms"
    assert seconds(90) == "1.5 min"
