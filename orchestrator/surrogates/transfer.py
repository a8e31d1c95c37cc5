"""Start a graph surrogate from another campaign's fit or a public set's, and find out whether that helps.

What carries over are the weights of the trunks, not labels: a network that has learned some property of many crystals
reads crystals better than one that starts from nothing (for materials: Gupta et al., Nature Communications 12, 6595,
2021, doi:10.1038/s41467-021-26921-5). Whether it does here is asked of the labels at every fit: the same surrogate is
also trained from nothing, and the arm under which the held-out labels are likelier is kept. A source that misleads
(negative transfer) is so left aside, with both errors in the report.

Where source and campaign share candidates *and* property, held-out labels are no longer unseen by the trunk: then
continue that campaign instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm

from orchestrator.domain import FitReport, HeldOut, sha256
from orchestrator.errors import SurrogateError
from orchestrator.networks.trunk import Trunk
from orchestrator.surrogates import state

HEAD = "head."
"""Names of a trunk's weights that answer, rather than read, begin so."""
CARRIED_RATE = 0.2
"""Learning rate of carried weights in units of the head's: what was learned from many labels is not lost to few."""

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Source:
    """What another fit hands over.

    Args:
        name: of its folder, for people.
        sha256: of its arrays.
        properties: that it was trained on.
        trunks: weights of each.
    """

    name: str
    sha256: str
    properties: tuple[str, ...]
    trunks: tuple[Weights, ...]

    @property
    def knowledge(self) -> str:
        """Name it among what a surrogate knows."""
        return f"fit-{self.sha256[:12]}"


def read_source(folder: Path, layout: Mapping[str, object]) -> Source:
    """Read the trunks of another fit.

    Args:
        folder: as `Surrogate.save` or `matloop fits export` wrote it.
        layout: network, cutoff and blocks of the trunks that are to start from it.

    Returns:
        The weights, whose hash was checked.

    Raises:
        SurrogateError: there is no fit, it is damaged, it has no trunks, or they are of another network.
    """
    try:
        content = json.loads((folder / state.REST).read_text(encoding="utf-8"))
        kind, properties = str(content["kind"]), [str(name) for name in content["properties"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = (
            f"'start' names {folder}, where no fit can be read ({error}); name a folder that 'matloop fits export'"
            " wrote"
        )
        raise SurrogateError(message) from error
    arrays, rest = state.read(folder, kind, properties)
    encoding = rest.get("encoding", {})
    if "trunks" not in encoding:
        message = (
            f"the fit in {folder} is a {kind!r}, which has no networks to start from; name a fit of a graph surrogate"
        )
        raise SurrogateError(message)
    theirs = {"network": "megnet"} | encoding["options"]
    for name, wanted in layout.items():
        if theirs.get(name) != wanted:
            message = (
                f"the fit in {folder} has {name} {theirs.get(name)!r}, this surrogate has {wanted!r}: weights carry"
                f" over between equal networks only; write '{name}: {theirs.get(name)}', or name another fit"
            )
            raise SurrogateError(message)
    trunks = []
    for k in range(int(encoding["trunks"])):
        start = f"trunk.{k}."
        own = {name[len(start) :]: value for name, value in arrays.items() if name.startswith(start)}
        trunks.append({name: torch.from_numpy(value) for name, value in own.items()})
    return Source(folder.name, sha256((folder / state.ARRAYS).read_bytes()), tuple(properties), tuple(trunks))


def carry(weights: Weights, fresh: Trunk) -> Trunk:
    """Return a fresh trunk with the weights of another fit.

    The head comes along, since its answers are a good first column for a related property; where the number of
    properties differs, each new answer starts as one of the old ones.

    Args:
        weights: of another trunk of the same network.
        fresh: a new trunk; changed in place.

    Returns:
        The same trunk, whose body learns slowly from now on.
    """
    wanted = fresh.state_dict()
    fitted = {
        name: _fit(weights[name], own) if name.startswith(HEAD) else weights[name] for name, own in wanted.items()
    }
    fresh.load_state_dict(fitted)
    fresh.body_rate = CARRIED_RATE
    return fresh


def log_density(held_out: Mapping[str, HeldOut]) -> float:
    """Return the mean over properties of the mean log density of held-out labels, standardised.

    Args:
        held_out: by property, with calibrated standard deviations.
    """
    means = []
    for one in held_out.values():
        scale = float(np.std(one.labels)) or 1.0
        means.append(float(np.mean(norm.logpdf(one.residuals / scale, scale=one.sd / scale))))
    return float(np.mean(means))


def compared(source: Source, carried: FitReport, plain: FitReport, *, better: bool) -> FitReport:
    """Return the report of the arm that was kept, with the errors of both.

    Args:
        source: what was started from.
        carried: report of the arm that started from it.
        plain: report of the arm that started from nothing.
        better: the first arm was kept.

    Returns:
        The report; metrics have ``mae_with_transfer``, ``mae_without_transfer``, and the same of ``nll``.
    """
    kept = carried if better else plain
    metrics, words = {}, []
    for name, own in kept.metrics.items():
        one, two = carried.metrics[name], plain.metrics[name]
        both = {f"{m}_{arm}_transfer": r[m] for m in ("mae", "nll") for arm, r in (("with", one), ("without", two))}
        metrics[name] = {**own, **both}
        words.append(f"{name}: held-out error {one['mae']:.3g} with transfer, {two['mae']:.3g} without")
    note = (
        f"{'; '.join(words)}: transfer from {source.name} ({', '.join(source.properties)}; {source.knowledge}) was"
        f" {'used' if better else 'left aside'}, by the likelihood of the held-out labels"
    )
    return replace(kept, metrics=metrics, seconds=carried.seconds + plain.seconds, notes=(*kept.notes, note))


def _fit(old: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    if old.shape == own.shape:
        return old
    rows = torch.arange(len(own)) % len(old)
    return old[rows].clone()
