"""Champion and challenger: a new fit proposes only if it is not worse than the one that does.

Judged are paired log likelihoods of single labels, on two sets: labels that both fits held out, and the results that
came after the champion's training. The champion predicts those one by one, conditioned on everything but the one it
predicts; the challenger by its own held-out predictions: neither has an answer that the other lacks.

Worse means a paired difference above one standard error on all these labels together, or above two on the newest
results. Either set alone leans to one side. Held-out predictions of a network come from one that saw only a part of the
labels, which makes the challenger the poorer on the newest results (seen with 48 labels against 24: worse by
0.12 ± 0.07 nats there, better by 0.17 ± 0.12 on what both held out). And chosen candidates are harder than the first
ones, so that a challenger that has learned to be careful loses on the old labels what it wins on the new ones (seen
with 20 against 12: worse by 0.45 ± 0.12 on the old, better by 0.63 ± 0.32 on the newest).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.abilities import HoldsOut
from orchestrator.domain import Array, Dataset, HeldOut
from orchestrator.protocols import Surrogate
from orchestrator.scoring import log_losses

LEARNED = "learned.json"
"""File in a fit's folder: the trials whose labels it learned from, and its held-out predictions of them."""
ENOUGH = 5
"""Labels below which a paired difference has no standard error to speak of."""
INDIFFERENT = 0.02
"""Nats a label that are no reason to keep the older fit, however sure the difference is."""
FAR = 10.0
"""Errors are cut at so many standard deviations: one absurd label must not decide by itself."""
NO_NUMBER = 100.0
"""Log loss of a prediction that is not finite."""
GROUPS = 8
"""The champion is conditioned anew at most so often; with more new results each prediction lacks a few of them."""

Pairs = Mapping[tuple[str, int], float]
"""Log loss by property and trial."""


@dataclass(frozen=True)
class Learned:
    """What a fit learned from, as its folder says.

    Args:
        trials: numbers of the labelled trials.
        held_out: by property; empty for surrogates that do not say.
    """

    trials: frozenset[int] = frozenset()
    held_out: Mapping[str, HeldOut] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger may propose, and why, in a sentence."""

    promoted: bool
    reason: str


def keep(folder: Path, surrogate: Surrogate, trials: Collection[int]) -> Learned:
    """Write what a fit learned from into its folder.

    Args:
        folder: where `Surrogate.save` has written.
        surrogate: just fitted.
        trials: numbers of the labelled trials.

    Returns:
        What was written.
    """
    learned = Learned(frozenset(trials), surrogate.held_out() if isinstance(surrogate, HoldsOut) else {})
    content = {
        "trials": sorted(int(trial) for trial in trials),
        "held_out": {
            name: {
                "trials": list(one.trials),
                "residuals": [float(x) for x in one.residuals],
                "sd": [float(x) for x in one.sd],
                "labels": [float(x) for x in one.labels],
            }
            for name, one in learned.held_out.items()
        },
    }
    (folder / LEARNED).write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
    return learned


def read(folder: Path) -> Learned:
    """Read what `keep` wrote; nothing for a fit from before there was such a file."""
    try:
        content: dict[str, Any] = json.loads((folder / LEARNED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Learned()
    return Learned(
        frozenset(content["trials"]),
        {
            name: HeldOut(
                np.array(one["residuals"]), np.array(one["sd"]), np.array(one["labels"]), tuple(one["trials"])
            )
            for name, one in content["held_out"].items()
        },
    )


def losses_held_out(held_out: Mapping[str, HeldOut]) -> dict[tuple[str, int], float]:
    """Return the log loss of each held-out label."""
    return {
        (name, trial): float(loss)
        for name, one in held_out.items()
        for trial, loss in zip(one.trials, _losses(one.residuals, one.sd), strict=True)
    }


def losses_since(
    surrogate: Surrogate, dataset: Dataset, learned: Learned, properties: tuple[str, ...], widened: Mapping[str, float]
) -> dict[tuple[str, int], float]:
    """Let a fit predict each result that came after its training, conditioned on all results but that one.

    Args:
        surrogate: holding the fit; it is updated here, and not put back.
        dataset: what is known.
        learned: what the fit was trained on.
        properties: m modelled ones.
        widened: factors in its standard deviations that its training did not give; they are taken out.

    Returns:
        Log losses; empty where nothing came.
    """
    labels = dataset.labels(properties)
    new = [i for i, trial in enumerate(labels.trials) if trial not in learned.trials]
    count = min(GROUPS, len(new))
    found: dict[tuple[str, int], float] = {}
    factors = np.array([widened.get(name, 1.0) for name in properties])
    for k in range(count):
        mine = new[k::count]
        hidden = {labels.trials[i] for i in mine}
        surrogate.update(Dataset(tuple(row for row in dataset.rows if row.trial not in hidden)))
        told = surrogate.predict([labels.candidates[i] for i in mine])
        losses = _losses(labels.values[mine] - told.mean, told.sd / factors)
        for i, row in zip(mine, losses, strict=True):
            for name, loss, value in zip(properties, row, labels.values[i], strict=True):
                if math.isfinite(value):
                    found[name, labels.trials[i]] = float(loss)
    return found


def compare(champion: Pairs, since: Pairs, challenger: Pairs, name: str) -> Verdict:
    """Say whether a challenger is worse than the champion.

    Args:
        champion: its losses on labels it held out.
        since: its losses on the results that came after.
        challenger: losses of the challenger on labels it held out.
        name: what the champion is called, such as ``fit 3``.

    Returns:
        The verdict.
    """
    said, worse = [], False
    for words, theirs, allowed in (
        ("labels", {**champion, **since}, 1.0),
        ("labels that both held out", champion, None),
        ("newest results", since, 2.0),
    ):
        both = sorted(set(theirs) & set(challenger))
        if len(both) < ENOUGH:
            continue
        difference = np.array([challenger[key] - theirs[key] for key in both])
        mean = float(difference.mean())
        error = float(difference.std(ddof=1)) / math.sqrt(len(both))
        worse = worse or (allowed is not None and mean > max(allowed * error, INDIFFERENT))
        sign = f"{mean:+.2f}".replace("-", "\N{MINUS SIGN}")
        said.append(f"{sign} ± {error:.2f} nats on {len(both)} {words}")
    if not said:
        return Verdict(promoted=True, reason=f"too few labels to compare it with {name}")
    word = "worse than" if worse else "not worse than"
    return Verdict(promoted=not worse, reason=f"{word} {name}: log loss {', '.join(said)}")


def _losses(errors: Array, sd: Array) -> Array:
    losses = log_losses(np.clip(errors, -FAR * sd, FAR * sd), sd)
    return np.where(np.isfinite(losses), losses, NO_NUMBER)
