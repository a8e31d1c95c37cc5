"""The arms of a comparison: the campaign itself, and what else could have chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from orchestrator import earlier
from orchestrator.config.base import Use
from orchestrator.config.read import Loaded, load_campaign
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Row
from orchestrator.errors import ConfigError
from orchestrator.planner import Parts
from orchestrator.record.store import CampaignStore
from orchestrator.replay.campaigns import replay_once
from orchestrator.replay.lessons import lesson_of
from orchestrator.replay.scores import Score, score, until
from orchestrator.replay.truth import prepare

OWN = "matloop"
"""Name of the campaign's own arm."""
NO_TRANSFER = "no-transfer"


def arms(config: CampaignConfig, against: Sequence[str]) -> dict[str, CampaignConfig]:
    """Return the campaign itself and the same with other acquisition policies or surrogates.

    Args:
        config: the campaign; its arm is called ``matloop``.
        against: names of acquisition policies, such as ``random``; ``POLICY+SURROGATE`` changes both, ``+SURROGATE``
            the surrogate alone, ``no-transfer`` leaves out what earlier campaigns know.

    Raises:
        ConfigError: there is nothing that could be left out.
    """
    made = {OWN: config}
    for name in against:
        changed: dict[str, Any] = {}
        policy, _, surrogate = name.partition("+")
        if name == NO_TRANSFER:
            if not config.earlier:
                message = f"the arm {NO_TRANSFER!r} leaves out 'earlier', and the campaign has none; leave the arm out"
                raise ConfigError(message)
            changed["earlier"] = []
        elif policy:
            changed["acquisition"] = Use(use=policy).model_dump()
        if surrogate:
            changed["surrogate"] = Use(use=surrogate).model_dump()
        made[name] = CampaignConfig.model_validate({**config.snapshot(), **changed})
    return made


def _earlier(store: CampaignStore | None, loaded: Loaded, own: Parts) -> tuple[Row, ...]:
    if store is None:
        message = "the results of earlier campaigns stand in a campaign database, and none was given: --store"
        raise ConfigError(message, key="earlier")
    return earlier.gather(store, loaded, loaded.config.problem(), own.space).rows


def replay(
    file: str | Path,
    *,
    data: str | Path | None,
    seeds: Sequence[int],
    against: Sequence[str] = ("random", "greedy"),
    share: float = 0.01,
    direction: Literal["maximize", "minimize"] | None = None,
    recall: float | None = None,
    store: CampaignStore | None = None,
    progress: Callable[[str, int], None] = lambda _arm, _seed: None,
) -> list[Score]:
    """Replay a campaign file and its controls over several seeds.

    Args:
        file: the campaign file.
        data: table to use instead of the pool's own path.
        seeds: one campaign each, the same starts for every arm.
        against: see `arms`.
        share: of the pool that counts as the best.
        direction: of the first objective, instead of the file's.
        recall: share of the best at which a campaign ends; None goes on to the budget.
        store: campaign database that holds the earlier campaigns which the file names.
        progress: called before each campaign.

    Returns:
        One score an arm, the campaign's own first.

    Raises:
        ConfigError: see `prepare` and `arms`; or earlier campaigns are named, and there is no database.
    """
    config, own, truth = prepare(file, data, direction)
    loaded = load_campaign(file)
    modules = loaded.lab.allowed_modules
    if config.earlier:
        truth = replace(truth, earlier=_earlier(store, replace(loaded, config=config), own))
    problem, lesson = config.problem(), lesson_of(config, own)
    enough = until(truth, share, recall if lesson is None else None)
    scores = []
    for arm, variant in arms(config, against).items():
        parts = own if variant is config else Parts.build(variant, base=own.base, allowed_modules=modules)
        done = []
        for seed in seeds:
            progress(arm, seed)
            done.append(replay_once(variant, parts, truth, seed, enough=enough, lesson=lesson))
        scores.append(score(arm, done, truth, share, problem))
    return scores
