"""What is known of a pool before it is replayed: every answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from orchestrator.config.read import load_campaign
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Array, Candidate, Problem, Row
from orchestrator.errors import ConfigError
from orchestrator.planner import Parts
from orchestrator.protocols import FiniteSpace
from orchestrator.replay.looked_up import TABLE, look_up


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of a pool.

    Args:
        candidates: n.
        utility: n larger-is-better numbers of the first objective.
        values: n × m values of the modelled properties, NaN where unknown.
        earlier: results of earlier campaigns, which a campaign that names some begins with.
    """

    candidates: tuple[Candidate, ...]
    utility: Array
    values: Array
    earlier: tuple[Row, ...] = ()

    def best(self, share: float) -> frozenset[str]:
        """Return the ids of the best share of the pool, ties with the last one included."""
        count = max(1, int(np.ceil(share * len(self.utility))))
        bound = np.sort(self.utility)[::-1][count - 1]
        return frozenset(c.id for c, u in zip(self.candidates, self.utility, strict=True) if u >= bound)

    def worths(self, problem: Problem) -> Array:
        """Return larger-is-better numbers of every objective, each from 0 (the pool's worst) to 1 (its best), n × k.

        Hypervolumes are counted from the worst corner of these, as (1, 1, 1) is where smaller is better.
        """
        column = {name: j for j, name in enumerate(problem.properties)}
        raw = np.stack([o.utility(self.values[:, column[o.property]]) for o in problem.objectives], axis=1)
        low, high = np.nanmin(raw, axis=0), np.nanmax(raw, axis=0)
        return np.asarray((raw - low) / np.where(high > low, high - low, 1.0))


def prepare(
    file: str | Path, data: str | Path | None, direction: Literal["maximize", "minimize"] | None = None
) -> tuple[CampaignConfig, Parts, Truth]:
    """Read a campaign file for replay.

    Args:
        file: campaign file over a pool; each objective and constraint is a column that the pool keeps as an attribute.
        data: table to use instead of the pool's own path.
        direction: of the first objective, instead of the file's.

    Returns:
        The configuration, its parts, and what is known.

    Raises:
        ConfigError: the space cannot be listed, or a property has no column.
    """
    loaded = load_campaign(file)
    content = loaded.config.snapshot()
    if data is not None:
        content["space"]["options"] = {**content["space"]["options"], "path": str(Path(data).resolve())}
    if direction is not None:
        content["objectives"][0] |= {"goal": direction, "target": None, "window": None}
    config = loaded.config
    if data is not None or direction is not None:
        config = CampaignConfig.model_validate(content)
    if config.fidelities:
        message = (
            "replay knows one value of each property, not those of cheaper fidelities; take 'fidelities' out of a copy"
            " of the file"
        )
        raise ConfigError(message, file=str(file), key="fidelities")
    parts = Parts.build(config, base=loaded.base, allowed_modules=loaded.lab.allowed_modules)
    return config, parts, known(config, parts, file=str(file))


def known(config: CampaignConfig, parts: Parts, *, file: str = "") -> Truth:
    """Gather what the pool's kept columns, or else the campaign's own table, say of the modelled properties.

    Raises:
        ConfigError: the space cannot be listed, or a property stands nowhere.
    """
    problem = config.problem()
    if not isinstance(parts.space, FiniteSpace):
        message = f"replay needs a space that can be listed, such as a pool; {config.space.use!r} cannot"
        raise ConfigError(message, file=file, key="space.use")
    candidates = tuple(parts.space.candidates())
    kept = [name for name in problem.properties if name in candidates[0].attributes]
    asked = look_up(config, parts, candidates) if len(kept) < len(problem.properties) else {}
    columns = {name: [_number(c, name, file) for c in candidates] for name in kept}
    missing = [name for name in problem.properties if name not in {**asked, **columns}]
    if missing:
        message = (
            f"replay finds no column for {', '.join(missing)}: list it under space.options.keep, or let the only step"
            f" of the procedure be an instrument {TABLE!r} that has it"
        )
        raise ConfigError(message, file=file, key="space.options.keep")
    values = np.array([{**asked, **columns}[name] for name in problem.properties]).T
    objective = problem.objectives[0]
    utility = objective.utility(values[:, problem.properties.index(objective.property)])
    return Truth(candidates, utility, values)


def _number(candidate: Candidate, name: str, file: str) -> float:
    try:
        return float(candidate.attributes[name])
    except (TypeError, ValueError) as error:
        message = f"candidate {candidate.label!r} has {name} = {candidate.attributes[name]!r}; a number was expected"
        raise ConfigError(message, file=file, key="space.options.keep") from error
