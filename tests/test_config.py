"""Campaign and lab files: reading, checking against plug-ins, amending."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config.amendments import differences, refuse_amendment
from orchestrator.config.check import check
from orchestrator.config.procedure import ProcedureCheck, offered
from orchestrator.config.read import load_campaign, load_lab
from orchestrator.config.schema import CampaignConfig
from orchestrator.config.steps import FixedInput, FromInput
from orchestrator.domain import Candidate
from orchestrator.errors import ConfigError

GOOD = """\
name: sinter
seed: 3
objectives:
  - {property: conductivity, unit: mS/cm, goal: maximize}
space:
  use: box
  options:
    parameters:
      temperature: {unit: kelvin, min: 1273.15, max: 1523.15}
      time: {unit: minute, min: 60, max: 720, log: true}
instruments:
  balance: {use: simulated_balance}
  furnace: {use: simulated_furnace}
procedure:
  - {step: weigh, instrument: balance, inputs: {target: {value: 400, unit: mg}}}
  - {step: fire, instrument: furnace, inputs: {excess: {from: weigh.mass}}}
acquisition: {use: random}
initial: {use: random, trials: 4}
budget: {trials: 12}
"""

LAB = """\
instruments:
  furnace:
    use: simulated_furnace
    envelope: {temperature: {max: 1300}}
"""


def write(folder: Path, text: str = GOOD, *changes: tuple[str, str]) -> Path:
    """Write a campaign file with some texts exchanged."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "campaign.yaml"
    file.write_text(text)
    return file


def refused(file: Path) -> ConfigError:
    """Return the error of a file that must be refused."""
    with pytest.raises(ConfigError) as caught:
        check(load_campaign(file))
    return caught.value


def test_good_file_passes(tmp_path: Path) -> None:
    """Units of one dimension are converted, inputs may come from values and earlier steps."""
    checked = check(load_campaign(write(tmp_path)))
    assert set(checked.descriptions) == {"balance", "furnace"}
    assert checked.surrogate is None
    assert checked.problem.units == {"conductivity": "mS/cm"}


def test_inputs_are_read_as_what_they_are(tmp_path: Path) -> None:
    """An input with 'from' is taken from somewhere; one with 'value' is fixed."""
    config = load_campaign(write(tmp_path)).config
    assert isinstance(config.procedure[0].inputs["target"], FixedInput)
    assert isinstance(config.procedure[1].inputs["excess"], FromInput)
    assert CampaignConfig.model_validate(config.snapshot()) == config


def test_check_works_inside_an_event_loop(tmp_path: Path) -> None:
    """Instruments describe themselves in coroutines; a flow checks a file while its own loop runs."""

    async def inside() -> None:
        check(load_campaign(write(tmp_path)))

    asyncio.run(inside())


def test_configuration_made_in_code_is_checked_too(tmp_path: Path) -> None:
    """Without a file there are no lines, and the message is the same."""
    config = load_campaign(write(tmp_path)).config
    assert check(config).problem == config.problem()
    wrong = CampaignConfig.model_validate({**config.snapshot(), "instruments": {}})
    with pytest.raises(ConfigError, match="there is no instrument 'balance'"):
        check(wrong)


def test_every_error_is_listed_the_first_in_full(tmp_path: Path) -> None:
    """Several mistakes are told at once, each with its line, in the order of the file."""
    file = write(tmp_path, GOOD, ("seed: 3", "sede: 3"), ("trials: 12", "trials: none"), ("goal: maximize", "goal: up"))
    error = refused(file)
    lines = str(error).splitlines()
    assert lines[0].startswith(f"{file}:2: sede: no such key; did you mean 'seed'?")
    assert lines[1] == "and 2 more:"
    assert lines[2].startswith(f"  {file}:4: objectives[0].goal")
    assert lines[3].startswith(f"  {file}:19: budget.trials")


def test_lab_beside_the_file_is_used(tmp_path: Path) -> None:
    """lab.yaml beside a campaign file is its lab; its envelope bounds the search, in the instrument's own unit."""
    (tmp_path / "lab.yaml").write_text(LAB)
    here = ("  furnace: {use: simulated_furnace}\n", "")
    loaded = load_campaign(write(tmp_path, GOOD, here))
    assert loaded.lab_file == str(tmp_path / "lab.yaml")
    check(loaded)
    error = refused(write(tmp_path, GOOD, here, ("max: 1523.15", "max: 1623.15")))
    assert error.line == 9
    assert "safety envelope" in error.message
    assert "1300 degC" in error.message


def test_lab_can_be_named(tmp_path: Path) -> None:
    """A lab file elsewhere is named; the one beside the campaign is then not read."""
    elsewhere = tmp_path / "site"
    elsewhere.mkdir()
    (elsewhere / "our.yaml").write_text(LAB)
    (tmp_path / "lab.yaml").write_text("this: is not read")
    loaded = load_campaign(
        write(tmp_path, GOOD, ("  furnace: {use: simulated_furnace}\n", "")), lab=elsewhere / "our.yaml"
    )
    assert set(loaded.lab.instruments) == {"furnace"}
    assert load_lab(elsewhere / "our.yaml") == loaded.lab


def test_campaign_cannot_replace_an_instrument_of_the_lab(tmp_path: Path) -> None:
    """Declaring the lab's furnace anew, without its envelope, is refused."""
    (tmp_path / "lab.yaml").write_text(LAB)
    error = refused(write(tmp_path))
    assert "the lab file has an instrument 'furnace' too" in error.message
    assert error.line == 13


def test_envelope_that_protects_nothing_is_refused(tmp_path: Path) -> None:
    """A misspelt parameter in an envelope is an error of the lab file, with its line."""
    (tmp_path / "lab.yaml").write_text(LAB.replace("temperature:", "temprature:"))
    error = refused(write(tmp_path, GOOD, ("  furnace: {use: simulated_furnace}\n", "")))
    assert error.file.endswith("lab.yaml")
    assert error.line == 4
    assert "protects nothing" in error.message


def test_shared_knowledge_is_allowed_only_in_writing(tmp_path: Path) -> None:
    """With allow_shared_knowledge the campaign passes, and a notice says what is shared."""
    text = """\
name: stable
objectives: [{property: energy, unit: eV/atom, goal: minimize}]
space: {use: prototypes, options: {sites: {A: [Sr, Ba], B: [Ti, Zr], X: [O]}}}
instruments: {potential: {use: interatomic_potential, options: {name: chgnet}}}
procedure: [{step: relax, instrument: potential, capability: relax}]
surrogate: {use: potential_gp}
acquisition: {use: greedy}
initial: {use: random, trials: 2}
budget: {trials: 4}
"""
    assert refused(write(tmp_path, text)).line == 6
    checked = check(load_campaign(write(tmp_path, text + "allow_shared_knowledge: true\n")))
    assert checked.shared_knowledge
    assert any("shared knowledge is allowed" in notice for notice in checked.notices)


def test_policy_without_surrogate_needs_none(tmp_path: Path) -> None:
    """A default surrogate is taken where the policy needs one and the file names none."""
    checked = check(load_campaign(write(tmp_path, GOOD, ("acquisition: {use: random}", "acquisition: {use: greedy}"))))
    assert checked.surrogate is not None
    assert "parameters" in checked.surrogate.supports()


def test_what_does_not_go_together_is_refused_with_what_would(tmp_path: Path) -> None:
    """A policy that asks too much, and a surrogate blind to the space, are refused; the file as advised passes."""
    wrong = (
        ("acquisition: {use: random}", "surrogate: {use: multi_fidelity, options: {surrogate: gaussian_process}}"),
        ("budget:", "acquisition: {use: phase_boundary}\nbudget:"),
    )
    error = refused(write(tmp_path, GOOD, *wrong))
    assert error.key == "acquisition.use"
    assert "needs classes of a surrogate, and 'multi_fidelity'" in str(error)
    assert "what works here: the surrogate 'phase_classifier', or with 'multi_fidelity' the policy '" in str(error)
    blind = ("acquisition: {use: random}", "acquisition: {use: greedy}\nsurrogate: {use: composition_gp}")
    error = refused(write(tmp_path, GOOD, blind))
    assert error.key == "surrogate.use"
    assert "use 'gaussian_process' or " in str(error)
    advised = (blind[0], blind[1].replace("composition_gp", "gaussian_process"))
    assert check(load_campaign(write(tmp_path, GOOD, advised))).surrogate is not None


def test_by_hand_needs_no_instrument(tmp_path: Path) -> None:
    """Without a procedure people measure, so any objective may be pursued."""
    start, end = GOOD.index("instruments:"), GOOD.index("acquisition:")
    text = GOOD[:start] + GOOD[end:]
    checked = check(load_campaign(write(tmp_path, text, ("property: conductivity, unit: mS/cm", "property: taste"))))
    assert not checked.descriptions


def test_notices_say_what_is_odd(tmp_path: Path) -> None:
    """An initial design that eats the budget, and too few slots, are said and not refused."""
    file = write(tmp_path, GOOD, ("trials: 4", "trials: 12"), ("budget:", "parallel: 3\nbudget:"))
    notices = " ".join(check(load_campaign(file)).notices)
    assert "nothing is learned" in notices
    assert "'balance' does 1 at once, and 3 trials run in parallel" in notices


def test_reading_and_the_checks_load_nothing_heavy(tmp_path: Path) -> None:
    """A file without a learned surrogate is validated without torch, Prefect and pymatgen."""
    code = (
        "import sys; from orchestrator.config.check import check; from orchestrator.config.read import load_campaign;"
        f"check(load_campaign({str(write(tmp_path))!r}));"
        "print([m for m in ('torch', 'prefect', 'pymatgen') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_units_of_listed_parameters_are_compared(tmp_path: Path) -> None:
    """A list whose parameters stand in another unit than the instrument's is converted before bounds are checked."""

    class Kelvin:
        def offers(self) -> frozenset[str]:
            return frozenset({"parameters"})

        def sample(self, n: int, seed: int) -> list[Candidate]:
            return self.candidates()[:n]

        def summary(self) -> dict[str, object]:
            return {}

        def candidates(self) -> list[Candidate]:
            return [Candidate.make(label=f"{t}", parameters={"temperature": t, "time": 2.0}) for t in (1300.0, 1500.0)]

        def get(self, candidate_id: str) -> Candidate:
            return next(c for c in self.candidates() if c.id == candidate_id)

        def parameter_units(self) -> dict[str, str]:
            return {"temperature": self.unit, "time": "hour"}

    loaded = load_campaign(write(tmp_path))
    for unit, fits in (("kelvin", True), ("degC", False)):
        space = Kelvin()
        space.unit = unit
        assert offered(space)["temperature"].unit == unit
        descriptions = check(loaded).descriptions
        procedure = ProcedureCheck(loaded.config, loaded.lab, descriptions, space, loaded.source)
        if fits:
            procedure.run()
        else:
            with pytest.raises(ConfigError, match="takes 900 to 1400 degC"):
                procedure.run()


# --- amendments -----------------------------------------------------------------------------------------------------


def config_of(folder: Path, *changes: tuple[str, str]) -> CampaignConfig:
    """Read a changed file."""
    return load_campaign(write(folder, GOOD, *changes)).config


def test_differences_name_key_and_values(tmp_path: Path) -> None:
    """Each difference is one line; the same file, or one that writes out a default, has none."""
    old = config_of(tmp_path)
    assert differences(old, config_of(tmp_path)) == []
    assert differences(old, config_of(tmp_path, ("budget:", "parallel: 1\nbudget:"))) == []
    new = config_of(tmp_path, ("{trials: 12}", "{trials: 40, hours: 2}"), ("max: 1523.15", "max: 1500"))
    assert differences(old, new) == [
        "space.options.parameters.temperature.max: 1523.15 → 1500",
        "budget.trials: 12 → 40",
        "budget.hours: None → 2.0",
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("name: sinter", "name: other"), 1),
        (("seed: 3", "seed: 4"), 2),
        (("unit: mS/cm", "unit: S/cm"), 4),
        (("goal: maximize", "goal: minimize"), 4),
        (("property: conductivity", "property: density"), 3),
        (("{value: 400, unit: mg}", "{value: 500, unit: mg}"), 14),
    ],
)
def test_meaning_of_recorded_values_cannot_change(tmp_path: Path, change: tuple[str, str], line: int) -> None:
    """Name, seed, objectives, units and procedure stay; the error names the line and what to do instead."""
    old = config_of(tmp_path)
    file = write(tmp_path, GOOD, change)
    with pytest.raises(ConfigError) as caught:
        refuse_amendment(old, load_campaign(file).config, file=str(file))
    assert caught.value.line == line
    assert "begin a new campaign" in caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        ("trials: 12", "trials: 99"),
        ("max: 1523.15", "max: 1600"),
        ("acquisition: {use: random}", "acquisition: {use: greedy}"),
        ("budget:", "stop: [{use: target_reached, options: {value: 1}}]\nbudget:"),
        ("budget:", "parallel: 4\nplan_when_free: 2\nbudget:"),
        ("{use: simulated_furnace}", "{use: simulated_furnace, options: {slots: 3}}"),
        ("budget:", "constraints: [{property: density, unit: percent, min: 80}]\nbudget:"),
    ],
)
def test_the_rest_may_be_amended(tmp_path: Path, change: tuple[str, str]) -> None:
    """Budget, stopping, space, policy, parallel trials, instruments and bounds may change."""
    old, new = config_of(tmp_path), config_of(tmp_path, change)
    assert differences(old, new)
    refuse_amendment(old, new, file="")
