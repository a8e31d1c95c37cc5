"""The example campaigns pass every check, and campaigns/README.md tells every key, no more and no less."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from orchestrator import plugins
from orchestrator.config.check import check
from orchestrator.config.lab import LabConfig
from orchestrator.config.past_results import TableOptions
from orchestrator.config.read import load_campaign, load_lab
from orchestrator.config.schema import CampaignConfig
from orchestrator.errors import ConfigError, MatloopError

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
README = (CAMPAIGNS / "README.md").read_text(encoding="utf-8")
FILES = sorted(p for p in CAMPAIGNS.glob("*.yaml") if not p.name.startswith("lab"))
NEEDS_DATA = {"perovskites_gap_replay.yaml", "perovskites_replay.yaml"}
"""Files whose data is fetched by `make data`; without it their schema is checked, and the error must name the data."""

NEEDS_PACKAGE = {"other_optimiser.yaml": "baybe"}
"""Files that ask an optimiser which is an extra; without it the error must name what to type."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_example_passes_every_check(file: Path) -> None:
    """Each example can be run as it stands."""
    lab = CAMPAIGNS / f"lab_{file.name}"  # an example with instruments of its own has its lab file beside it
    loaded = load_campaign(file, lab=lab if lab.is_file() else None)
    assert file.name in README
    if importlib.util.find_spec(NEEDS_PACKAGE.get(file.name, "orchestrator")) is None:
        with pytest.raises(MatloopError, match="pip install"):
            check(loaded)
        return
    if file.name in NEEDS_DATA:
        try:
            checked = check(loaded)
        except ConfigError as error:
            assert error.key == "space.options.path"  # noqa: PT017  there is no data, and that is what it says
            return
    else:
        checked = check(loaded)
    assert checked.problem.objectives


def test_main_job_is_as_large_as_promised() -> None:
    """A thousand or more charge-neutral perovskites, and a surrogate that knows nothing of its instrument."""
    checked = check(load_campaign(CAMPAIGNS / "perovskites.yaml"))
    assert len(checked.space.candidates()) >= 1000
    assert not checked.shared_knowledge
    assert checked.surrogate is not None
    assert not checked.surrogate.knows()


def test_by_hand_takes_its_table_in() -> None:
    """The eight past results are read in the units of the objectives, a gap stays a gap."""
    past = check(load_campaign(CAMPAIGNS / "by_hand.yaml")).past_results
    assert len(past) == 8
    assert past[1].values["conductivity"] == (pytest.approx(0.2593e-3), pytest.approx(0.0078e-3))
    assert past[1].candidate.parameters["excess"] == pytest.approx(0.3)
    assert set(past[7].values) == {"conductivity"}


def test_lab_is_read() -> None:
    """The example lab has the instruments that the examples name."""
    assert {"balance", "furnace"} <= set(load_lab(CAMPAIGNS / "lab.yaml").instruments)


def test_shortest_file_of_the_readme_works(tmp_path: Path) -> None:
    """The first example in the README is a whole campaign file."""
    blocks = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    file = tmp_path / "first.yaml"
    file.write_text(blocks[0])
    check(load_campaign(file))


def keys(annotation: Any, prefix: str = "") -> Iterator[str]:
    """List the keys of a model as the README writes them: ``objectives[].unit``, ``instruments.NAME.use``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from keys(field.annotation, f"{prefix}.{field.alias or name}".lstrip("."))
        return
    arguments = [a for a in get_args(annotation) if a not in {type(None), ...}]
    inside = [a for a in arguments if list(models(a))]
    origin = getattr(annotation, "__origin__", None)
    if origin is dict and inside:
        name = "PARAMETER" if prefix.endswith("envelope") else "NAME"
        yield from keys(arguments[1], f"{prefix}.{name}")
    elif origin is tuple:
        yield from keys(arguments[0], f"{prefix}[]")
    elif inside:
        for argument in inside:
            yield from keys(argument, prefix)
    else:
        yield prefix


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """List the models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models(argument)


def told(section: str) -> list[str]:
    """List the first cells of a section's tables."""
    start = README.index(f"\n## {section}\n")
    end = README.find("\n## ", start + 5)
    return re.findall(r"^\| `([^`]+)` \|", README[start : end if end > 0 else None], flags=re.MULTILINE)


def test_readme_tells_every_key_of_a_campaign_file() -> None:
    """The tables and the schema have the same keys."""
    listed = told("Every key")
    assert len(listed) == len(set(listed))
    assert set(listed) == set(keys(CampaignConfig))


def test_readme_tells_every_key_of_a_lab_file() -> None:
    """The same for the lab file."""
    assert set(told("The lab file")) == set(keys(LabConfig))


def test_readme_tells_every_option_of_a_table() -> None:
    """The same for the options of past results."""
    assert set(told("Measured by hand")) == set(TableOptions.model_fields)


COMMON = ("epsilon", "feasibility", "per_expense", "most_per_system", "pending")
"""Options that every built-in policy has."""
ANYWHERE = ("draws", "shortlist", "samples", "watch")
"""Options of several plug-ins that mean the same in each."""


def test_readme_tells_every_option_of_policies_and_rules() -> None:
    """Each option of a built-in policy or stopping rule has a line, and no line speaks of one that is not there."""
    known = {*COMMON, *ANYWHERE}
    for kind in ("acquisition", "stopping"):
        for name, one in plugins.available(kind).items():
            if one.distribution == "matloop":
                options = plugins.load(kind, name).Options.model_fields
                shared = {*COMMON, *ANYWHERE} if kind == "acquisition" else set()
                known |= {f"{name}.{option}" for option in options if option not in shared}
    listed = told("Options")
    others = {one for one in listed if one.split(".")[0] in {"columns", "product", "gaussian_process"}}
    assert len(listed) == len(set(listed))
    assert set(listed) - others == known
