"""Stored fits as people meet them: found in a campaign database or in a folder, described by a card, taken elsewhere.

An exported fit is a folder: the state as `Surrogate.save` wrote it, `card.json` with everything that is needed to ask
it again and to judge it, and the same for people in `README.md`. Cards follow Mitchell et al., Model Cards for Model
Reporting, FAT* 2019, doi:10.1145/3287560.3287596. Nothing in such a folder is code.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

from orchestrator import plugins
from orchestrator.campaign import Campaign
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Candidate, Constraint, JsonObject, Objective, Problem, canonical_json, sha256
from orchestrator.errors import Damaged, MaterialError, StoreError
from orchestrator.protocols import Surrogate
from orchestrator.record.codec import lenient, report_to_json
from orchestrator.record.raw import sync_folder
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import FitInfo

FORMAT = 1
"""Version of the card; another one is refused."""
CARD, README = "card.json", "README.md"
PACKAGES = ("matloop", "numpy", "scipy", "torch", "torch-geometric", "gpytorch", "matgl", "chgnet", "scikit-learn")
"""Distributions whose versions a card states, where they are installed."""
WEIGHTS = {"chgnet": "chgnet", "sevennet": "sevenn"}
"""Beginning of an entry of `knows` → distribution that brings those weights, and whose licence they have."""


@dataclass(frozen=True)
class Recipe:
    """Everything that is needed to ask a fit, as plain values that another process can take.

    Args:
        folder: of the state.
        surrogate: plug-in name.
        options: as written.
        problem: properties and units.
        state_sha256: hash of the state.
        base: folder that relative paths in the options start from.
        allowed_modules: see `plugins.load`.
        store: the campaign database, where the fit is to be updated to what is known there.
        campaign: whose results those are.
        seen: tokens of the dataset rows it is updated to; None asks the fit as it was trained.
        title: what people call it.
    """

    folder: str
    surrogate: str
    options: Mapping[str, Any]
    problem: Problem
    state_sha256: str
    base: str | None = None
    allowed_modules: tuple[str, ...] = ()
    store: str | None = None
    campaign: str = ""
    seen: tuple[int, ...] | None = None
    title: str = ""

    def identity(self) -> JsonObject:
        """Return what its answers depend on."""
        return {
            "state_sha256": self.state_sha256,
            "surrogate": self.surrogate,
            "seen_sha256": None if self.seen is None else sha256(canonical_json(list(self.seen))),
        }


def revive(recipe: Recipe) -> Surrogate:
    """Build the surrogate of a fit and load its state.

    Args:
        recipe: from `of_campaign` or `of_folder`.

    Returns:
        The surrogate, ready to be asked.

    Raises:
        PluginError: its plug-in is not installed here.
        SurrogateError: the state cannot be read.
    """
    built: Surrogate = plugins.build(
        "surrogates",
        recipe.surrogate,
        recipe.options,
        base=recipe.base,
        allowed_modules=recipe.allowed_modules,
    )
    built.load(Path(recipe.folder), recipe.problem)
    if recipe.seen is not None:
        store = CampaignStore.open(recipe.store, create=False)
        try:
            dataset = store.dataset(recipe.campaign, units=recipe.problem.units)
        finally:
            store.close()
        built.update(dataset.seen(recipe.seen))
    return built


# --- finding ---------------------------------------------------------------------------------------------------------


def find(store: CampaignStore, fit_id: int) -> tuple[str, FitInfo]:
    """Find a fit by its id.

    Returns:
        The campaign's name, and the fit.

    Raises:
        StoreError: there is none.
    """
    for info in store.campaigns():
        for fit in store.fits(info.name):
            if fit.id == fit_id:
                return info.name, fit
    message = f"there is no fit with id {fit_id} in this database; 'matloop fits list' shows them"
    raise StoreError(message)


def newest(store: CampaignStore, campaign: str) -> FitInfo:
    """Return the fit that proposes: the newest that was promoted.

    Raises:
        StoreError: there is none yet.
    """
    fits = store.fits(campaign)
    for fit in reversed(fits):
        if fit.report.promoted:
            return fit
    message = f"campaign {campaign!r} has no fit yet; it is trained once its initial trials are measured"
    raise StoreError(message)


def of_campaign(campaign: Campaign, fit: FitInfo, *, where: str | None, updated: bool) -> Recipe:
    """Say how to ask a fit of a campaign.

    Args:
        campaign: the campaign.
        fit: one of its fits.
        where: the campaign database, as the user named it.
        updated: take in everything that is measured by now, as the campaign itself does before it chooses.

    Returns:
        The recipe.

    Raises:
        Damaged: the files of the fit were changed.
    """
    config = _config_of(campaign, fit)
    problem = config.problem()
    seen = None
    if updated:
        dataset = campaign.store.dataset(campaign.name, units=problem.units)
        seen = tuple(sorted({row.token for row in dataset.rows}))
    return Recipe(
        folder=str(campaign.store.fit_folder(fit.id)),
        surrogate=fit.surrogate,
        options=dict(config.surrogate.options) if config.surrogate else {},
        problem=problem,
        state_sha256=fit.checkpoint_sha256,
        base=campaign.base,
        allowed_modules=tuple(campaign.lab.allowed_modules),
        store=where,
        campaign=campaign.name,
        seen=seen,
        title=f"fit {fit.number} of {campaign.name}" + (", updated to all its results" if seen else ""),
    )


def of_folder(folder: Path, allowed_modules: Sequence[str] = ()) -> Recipe:
    """Say how to ask an exported fit, after comparing its files with their hashes.

    Args:
        folder: as `export` wrote it.
        allowed_modules: see `plugins.load`.

    Returns:
        The recipe.

    Raises:
        Damaged: a file is missing, was changed or was added.
        StoreError: it is no exported fit, or one of another version.
    """
    card = read_card(folder)
    surrogate = card["surrogate"]
    return Recipe(
        folder=str(folder),
        surrogate=surrogate["use"],
        options=surrogate["options"],
        problem=_problem(card["problem"]),
        state_sha256=card["state"]["sha256"],
        base=str(folder),
        allowed_modules=tuple(allowed_modules),
        title=f"fit {card['fit']['number']} of {card['fit']['campaign']}, from {folder.name}",
    )


# --- the card --------------------------------------------------------------------------------------------------------


def card(campaign: Campaign, fit: FitInfo) -> JsonObject:
    """Describe a fit.

    Args:
        campaign: whose fit it is.
        fit: the fit.

    Returns:
        JSON content; `readable` turns it into text.
    """
    config = _config_of(campaign, fit)
    problem = config.problem()
    options = dict(config.surrogate.options) if config.surrogate else {}
    recipe = of_campaign(campaign, fit, where=None, updated=False)
    listing = plugins.available("surrogates").get(fit.surrogate)
    surrogate: Surrogate = plugins.build(
        "surrogates", fit.surrogate, options, base=campaign.base, allowed_modules=campaign.lab.allowed_modules
    )
    labels = campaign.store.dataset(campaign.name, units=problem.units).seen(fit.seen).labels(problem.properties)
    content: JsonObject = lenient(
        {
            "format": FORMAT,
            "fit": {
                "id": fit.id,
                "number": fit.number,
                "campaign": campaign.name,
                "campaign_uuid": campaign.info.uuid,
                "revision": fit.revision,
                "made_at": fit.made_at,
                "seed": fit.seed,
                "lineage": _lineage(campaign.store.fits(campaign.name), fit),
            },
            "surrogate": {
                "use": fit.surrogate,
                "options": options,
                "package": f"{listing.distribution} {listing.version}" if listing else "",
                "supports": sorted(surrogate.supports()),
                "knows": sorted(surrogate.knows()),
                "licences": {name: _licence(name) for name in sorted(surrogate.knows())},
            },
            "problem": {
                "objectives": [
                    {"property": o.property, "unit": o.unit, "goal": o.goal, "target": o.target}
                    for o in problem.objectives
                ],
                "constraints": [
                    {"property": c.property, "unit": c.unit, "low": c.low, "high": c.high} for c in problem.constraints
                ],
            },
            "domain": _domain(labels.candidates),
            "report": report_to_json(fit.report),
            "versions": dict(_versions(listing.distribution if listing else "")),
            "state": {"sha256": fit.checkpoint_sha256, "files": _files(Path(recipe.folder))},
        }
    )
    return content


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card of an exported fit, and compare every file with its hash.

    Raises:
        Damaged: a file is missing, was changed or was added.
        StoreError: it is no exported fit, or one of another version.
    """
    try:
        content: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{folder} is no exported fit: {error}; make one with 'matloop fits export ID FOLDER'"
        raise StoreError(message) from error
    if content.get("format") != FORMAT:
        message = f"the card in {folder} has format {content.get('format')!r}; this version of Matloop reads {FORMAT}"
        raise StoreError(message)
    stated = content.pop("sha256", None)
    if stated != sha256(canonical_json(content)):
        message = f"{folder / CARD} was changed after it was written; get a whole copy of the folder"
        raise Damaged(message)
    files = _files(folder)
    if files != content["state"]["files"] or _state_sha256(files) != content["state"]["sha256"]:
        wanted = content["state"]["files"]
        wrong = sorted(name for name in {*files, *wanted} if files.get(name) != wanted.get(name))
        message = f"files of the fit in {folder} are missing, changed or added: {', '.join(wrong)}; get a whole copy"
        raise Damaged(message)
    return content


def export(campaign: Campaign, fit: FitInfo, folder: Path) -> None:
    """Write a fit into a folder of its own, whole or not at all.

    Args:
        campaign: whose fit it is.
        fit: the fit.
        folder: new, or empty.

    Raises:
        StoreError: the folder holds something already.
        Damaged: the stored files were changed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"{folder} exists and is not empty; give another place"
        raise StoreError(message)
    content = card(campaign, fit)
    source = campaign.store.fit_folder(fit.id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        shutil.copytree(source, temporary, copy_function=shutil.copyfile)
        text = json.dumps({**content, "sha256": sha256(canonical_json(content))}, indent=1, sort_keys=True)
        (temporary / CARD).write_text(text + "\n", encoding="utf-8")
        (temporary / README).write_text(readable(content) + "\n", encoding="utf-8")
        for path in sorted(temporary.rglob("*")):
            sync_folder(path)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def readable(content: Mapping[str, Any]) -> str:
    """Return a card as Markdown for people.

    Args:
        content: from `card` or `read_card`.
    """
    fit, surrogate, report = content["fit"], content["surrogate"], content["report"]
    properties = [*content["problem"]["objectives"], *content["problem"]["constraints"]]
    units = {one["property"]: one["unit"] for one in properties}
    options = ", ".join(f"{key}={value}" for key, value in surrogate["options"].items()) or "defaults"
    begun = "warm" if report["warm"] else "from nothing"
    start = " → ".join(f"{step['number']} ({step['labels']} labels)" for step in reversed(fit["lineage"]))
    when = datetime.fromtimestamp(fit["made_at"] / 1e6, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        f"# Fit {fit['number']} of {fit['campaign']}",
        "",
        f"- predicts: {', '.join(f'{name} ({unit})' for name, unit in units.items())}",
        f"- surrogate: {surrogate['use']} ({options}), from {surrogate['package'] or 'a module of the lab'}",
        f"- trained: {when} on {report['device']}, {report['seconds']:.1f} s, seed {fit['seed']}, {begun}",
        f"- lineage: {start}",
        f"- learned from: {report['labels']} labelled trials, dataset {report['data_sha256'][:12]}",
        f"- meant for: {_meant_for(content['domain'])}; elsewhere it extrapolates, which 'matloop predict' marks",
        f"- pretrained parts: {_pretrained(surrogate)}",
        f"- {'proposes' if report['promoted'] else 'does not propose'}"
        + (f": {report['reason']}" * bool(report["reason"])),
        f"- state: {content['state']['sha256']}",
        f"- versions: {', '.join(f'{name} {number}' for name, number in content['versions'].items())}",
    ]
    titles = {
        "metrics": "On labels held out of the training",
        "calibration": "Calibration: nominal coverage → observed on held-out labels",
        "prospective": "On results that came after their predictions",
    }
    for part, title in titles.items():
        if any(report[part].values()):
            lines += ["", f"## {title}", ""]
            lines += [f"- {name} ({units.get(name, '?')}): {_numbers(values)}" for name, values in report[part].items()]
    if report["notes"]:
        lines += ["", "## Notes", "", *(f"- {note}" for note in report["notes"])]
    return "\n".join(lines)


def _meant_for(domain: Mapping[str, Any]) -> str:
    parts = [f"what resembles its {domain['candidates']} labelled candidates"]
    if "elements" in domain:
        parts.append(f"made of {', '.join(domain['elements'])}")
    if "atoms_in_a_cell" in domain:
        parts.append("{} to {} atoms in a cell".format(*domain["atoms_in_a_cell"]))
    for name, values in domain.get("parameters", {}).items():
        words = [str(value) for value in values]
        parts.append(f"{name} {' to '.join(words) if not isinstance(values[0], str) else ', '.join(words)}")
    return "; ".join(parts)


def _pretrained(surrogate: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}, licence: {licence}" for name, licence in surrogate["licences"].items()) or "none"


def _numbers(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{key} {'–' if value is None else format(value, '.3g')}" for key, value in values.items())


# --- small parts -----------------------------------------------------------------------------------------------------


def _lineage(fits: Sequence[FitInfo], fit: FitInfo) -> list[JsonObject]:
    """Follow the parents back to a fit that began from nothing."""
    by_id = {each.id: each for each in fits}
    steps: list[JsonObject] = []
    current: FitInfo | None = fit
    while current is not None:
        steps.append({"id": current.id, "number": current.number, "labels": current.report.labels})
        current = by_id.get(current.parent) if current.parent is not None else None
    return steps


def _config_of(campaign: Campaign, fit: FitInfo) -> CampaignConfig:
    for revision in campaign.store.revisions(campaign.name):
        if revision["number"] == fit.revision:
            return CampaignConfig.model_validate(dict(revision["config"]))
    message = f"fit {fit.id} names revision {fit.revision}, which campaign {campaign.name!r} does not have"
    raise StoreError(message)


def _problem(content: Mapping[str, Any]) -> Problem:
    return Problem(
        objectives=tuple(Objective(**one) for one in content["objectives"]),
        constraints=tuple(Constraint(**one) for one in content["constraints"]),
    )


def _domain(candidates: Sequence[Candidate]) -> JsonObject:
    """Say what the labelled candidates were: the domain that a fit is meant for."""
    elements: Counter[str] = Counter(symbol for one in candidates for symbol in _elements(one))
    atoms = [len(one.crystal.species) for one in candidates if one.crystal is not None]
    domain: JsonObject = {"candidates": len({one.id for one in candidates}), "structures": len(atoms)}
    if elements:
        domain["elements"] = dict(sorted(elements.items()))
    if atoms:
        domain["atoms_in_a_cell"] = [min(atoms), max(atoms)]
    parameters: JsonObject = {}
    for name in sorted({name for one in candidates for name in one.parameters}):
        values = [one.parameters[name] for one in candidates if name in one.parameters]
        numbers = [float(value) for value in values if not isinstance(value, str)]
        words = sorted({value for value in values if isinstance(value, str)})
        parameters[name] = list(words) if words else [min(numbers), max(numbers)]
    if parameters:
        domain["parameters"] = parameters
    return domain


def _elements(candidate: Candidate) -> frozenset[str]:
    if candidate.crystal is not None:
        return frozenset(candidate.crystal.species)
    if candidate.composition is None:
        return frozenset()
    from pymatgen.core import Composition  # noqa: PLC0415  2 s to import, needed with compositions only

    try:
        return frozenset(str(symbol) for symbol in Composition(candidate.composition).get_el_amt_dict())
    except ValueError as error:
        message = f"candidate {candidate.label!r} has the composition {candidate.composition!r}: {error}"
        raise MaterialError(message) from error


def _licence(knowledge: str) -> str:
    package = next((package for name, package in WEIGHTS.items() if knowledge.startswith(name)), None)
    if package is None:
        return "not known here: ask whoever wrote the surrogate"
    try:
        about = metadata(package)
    except PackageNotFoundError:
        return f"that of the package {package}, which is not installed here"
    stated = next((about[key] for key in ("License-Expression", "License") if key in about), "see its files")
    return f"{stated} (package {package})"


def _versions(distribution: str) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys((*PACKAGES, distribution)):
        try:
            yield name, version(name)
        except (PackageNotFoundError, ValueError):
            continue


def _files(folder: Path) -> dict[str, str]:
    """Return the hashes of a fit's own files by name, sorted as `raw.folder_sha256` sorts them."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() not in {CARD, README}
    }


def _state_sha256(files: Mapping[str, str]) -> str:
    return sha256(canonical_json([list(pair) for pair in files.items()]))
