"""What the networks inside a surrogate say by themselves: integrated gradients on atoms' embeddings, and attention.

Sundararajan, Taly and Yan, ICML 2017, doi:10.48550/arXiv.1703.01365, by captum: the gradient of a network's answer
along the straight line from typical embeddings to the atom's own, times the difference. Species are integers, so the
line is drawn between embeddings. It tells what the network makes of each atom, but not what the surrogate around it
adds from tabulated statistics and labels; `explanation` tells that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from orchestrator.domain import Array, Candidate, Contribution, Explanation
from orchestrator.errors import SurrogateError
from orchestrator.networks.trunk import Item, Trunk
from orchestrator.surrogates.coalitions import Background, without
from orchestrator.surrogates.explanation import Known
from orchestrator.surrogates.targets import Target
from orchestrator.surrogates.trunks import Trunks

STEPS = 64
"""Points of the Gauss–Legendre rule along the line: sums then differ from the answer of a smooth network by far less
than 1 %; of one that pools by the maximum, which has kinks, by a few."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Attribution:
    """What one network says of one crystal, in standardised units.

    Args:
        atoms: one contribution an atom, N.
        answer: of the network.
        baseline: its answer to typical embeddings in the same places.
        attention: weight of each atom, N, summing to 1; None for a network without attention.
    """

    atoms: Array
    answer: float
    baseline: float
    attention: Array | None


def integrated_gradients(trunk: Trunk, item: Item, typical: Sequence[Item], output: int) -> Attribution:
    """Attribute one answer of one network to atoms.

    Args:
        trunk: the network; left in evaluation mode and single precision on the CPU.
        item: graph of the crystal.
        typical: the same graph with other elements; the mean of their embeddings is the baseline.
        output: which answer.

    Returns:
        The attribution.
    """
    from captum.attr import IntegratedGradients  # noqa: PLC0415  only explanations pay the import

    trunk.eval().to(CPU, torch.float64)
    try:
        one = trunk.collate([item], CPU, torch.float64)
        many = trunk.collate([item] * STEPS, CPU, torch.float64)
        with torch.no_grad():
            own = trunk.atom_inputs(one)
            rows = trunk.atom_inputs(trunk.collate(typical, CPU, torch.float64))
            start = rows.reshape(len(typical), *own.shape).mean(0)
            answer, baseline = (float(trunk(one, atoms)[0, output]) for atoms in (own, start))
            attention = trunk.attention(one)

        def along(atoms: torch.Tensor) -> torch.Tensor:  # steps × N × e → steps
            batch = many if len(atoms) == STEPS else one
            answers: torch.Tensor = trunk(batch, atoms.reshape(-1, atoms.shape[-1]))
            return answers[:, output]

        method = IntegratedGradients(along)
        found = method.attribute(own[None], start[None], n_steps=STEPS, method="gausslegendre")
        values: Array = found[0].sum(-1).detach().numpy()
    finally:
        trunk.to(CPU, torch.float32)
    return Attribution(values, answer, baseline, None if attention is None else attention.numpy())


def explain_network(
    trunks: Trunks, target: Target, known: Known, candidates: Sequence[Candidate], name: str
) -> tuple[Explanation, ...]:
    """Explain the mean answer of a surrogate's networks to crystals.

    Args:
        trunks: the networks.
        target: how labels of the property were standardised.
        known: units and labelled candidates.
        candidates: n candidates.
        name: of a modelled property.

    Returns:
        n explanations of the networks alone; `sd` is how far the networks differ.

    Raises:
        SurrogateError: the networks read no crystals, or the property is learned through a transform.
    """
    if trunks.kind.reads != "structure" or target.transform is not None:
        message = (
            f"gradients along embeddings explain networks on crystals in the property's own unit; this one reads"
            f" {trunks.kind.reads}s, transform {target.transform is not None}: ask for the whole surrogate instead"
        )
        raise SurrogateError(message)
    j = known.problem.properties.index(name)
    background = Background(known.labels.candidates)
    made = []
    for candidate in candidates:
        parts = background.divide(candidate)
        nothing = [False] * len(parts)
        others = [without(candidate, parts, nothing, r) for r in range(len(parts[0].stand_ins))]
        item, *typical = trunks.items([candidate, *others])
        found = [integrated_gradients(trunk, item, typical, j) for trunk in trunks.trunks]
        values = target.scale * np.mean([one.atoms for one in found], axis=0)
        answers = [float(target.back(np.array([one.answer]))[0]) for one in found]
        baseline = float(np.mean([target.back(np.array([one.baseline]))[0] for one in found]))
        species = candidate.crystal.species if candidate.crystal is not None else ()
        atoms = tuple(Contribution(f"{s} {i}", float(values[i]), i) for i, s in enumerate(species))
        sums = {s: float(sum(a.value for a, t in zip(atoms, species, strict=True) if t == s)) for s in species}
        made.append(
            Explanation(
                property=name,
                unit=known.problem.units[name],
                mean=float(np.mean(answers)),
                sd=float(np.std(answers)),
                baseline=baseline,
                method=(
                    f"integrated gradients on the atoms' embeddings, mean of {len(found)} {trunks.kind.name} networks,"
                    f" from the mean embedding of {len(typical)} typical stand-ins (Sundararajan et al. 2017)"
                    + attention_words(found, species)
                ),
                atoms=atoms,
                elements=tuple(Contribution(s, value) for s, value in sorted(sums.items())),
            )
        )
    return tuple(made)


def attention_words(found: Sequence[Attribution], species: Sequence[str]) -> str:
    """Say where networks with attention look; nothing for others."""
    weights = [one.attention for one in found if one.attention is not None]
    if not weights:
        return ""
    mean = np.mean(weights, axis=0)
    shares = {s: float(sum(w for w, t in zip(mean, species, strict=True) if t == s)) for s in dict.fromkeys(species)}
    return "; attention: " + ", ".join(f"{symbol} {100 * share:.0f} %" for symbol, share in shares.items())
