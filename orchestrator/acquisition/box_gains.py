"""How much a normally distributed property improves on what is reached: logarithms in closed form, with gradients.

Every goal's utility is made of ramps, and the expectation of a ramp above a bound is that of expected improvement; so
the improvement towards a target or a window is a sum of four of those. With several objectives the region that nothing
reaches is cut into boxes, and the expected hypervolume of each is a product over the objectives (Emmerich, Deutz,
Klinkenberg, CEC 2011, doi:10.1109/CEC.2011.5949880). Logarithms are kept throughout, after Ament et al., NeurIPS 2023,
arXiv:2310.20708.
"""

from __future__ import annotations

import math

import torch

from orchestrator.domain import Constraint, Objective

LOWEST = -1e14
"""Stands for the logarithm of what is nothing even in logarithms; finite, so that gradients stay so."""
LOG_2PI = math.log(2.0 * math.pi)
FAR = -1e6
"""Standard deviations below which the asymptote 1/u² takes over."""
PLANE = 2
"""Objectives for which boxes are strips."""
HALF, SERIES = -0.6, -1e3
"""Where a formula that keeps its digits is taken over by another."""
WIDTH_LEAST = 1e-12
"""Least distance to a target, as a share of a standard deviation, that can still be improved on."""


def log_ramp(mean: torch.Tensor, sd: torch.Tensor, bound: torch.Tensor | float) -> torch.Tensor:
    """Return log E[max(y - bound, 0)] of normal y; shapes broadcast."""
    return _log_h((mean - bound) / sd) + torch.log(sd)


def log_gain(objective: Objective, mean: torch.Tensor, sd: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
    """Return log E[max(utility(y) - reached, 0)] of normal y; shapes broadcast.

    Args:
        objective: gives the utility.
        mean: of the property.
        sd: of the property.
        reached: utilities.
    """
    if objective.goal == "maximize":
        return log_ramp(mean, sd, reached)
    if objective.goal == "minimize":
        return log_ramp(-mean, sd, reached)
    low, high = ends(objective)
    width = torch.maximum(-reached, WIDTH_LEAST * sd)  # utilities are negative distances
    middle = (low + high) / 2
    below = torch.where(mean > middle, 2 * middle - mean, mean)  # mirrored: the side on which logarithms keep digits
    rise = log_minus(log_ramp(below, sd, low - width), log_ramp(below, sd, low))
    fall = log_minus(log_ramp(below, sd, high), log_ramp(below, sd, high + width))
    return torch.where(reached < 0, log_minus(rise, fall), torch.full_like(rise, LOWEST))


def log_holds(constraint: Constraint, mean: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the probability that normal values satisfy a constraint."""
    if constraint.low is None and constraint.high is None:
        return torch.zeros_like(mean + sd)
    if constraint.high is None:
        above: torch.Tensor = torch.special.log_ndtr((mean - float(constraint.low or 0.0)) / sd)
        return above
    if constraint.low is None:
        under: torch.Tensor = torch.special.log_ndtr((constraint.high - mean) / sd)
        return under
    middle = (constraint.low + constraint.high) / 2
    below = torch.where(mean > middle, 2 * middle - mean, mean)
    above_low = torch.special.log_ndtr((below - constraint.low) / sd)
    above_high = torch.special.log_ndtr((below - constraint.high) / sd)
    return log_minus(above_low, above_high)


def optimistic(objective: Objective, mean: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
    """Return the best utility within `reach` of the mean."""
    if objective.goal == "maximize":
        return mean + reach
    if objective.goal == "minimize":
        return reach - mean
    low, high = ends(objective)
    return -(torch.maximum(low - mean, mean - high) - reach).clamp_min(0.0)


def utility(objective: Objective, values: torch.Tensor) -> torch.Tensor:
    """Return larger-is-better numbers, any shape."""
    return optimistic(objective, values, torch.zeros_like(values))


def ends(objective: Objective) -> tuple[float, float]:
    """Return the ends of a window; of a target, the target twice."""
    if objective.goal == "window" and objective.window is not None:
        return objective.window
    target = float(objective.target if objective.target is not None else math.nan)
    return target, target


def cells(points: torch.Tensor, allowed: torch.Tensor, corner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the region that no point dominates into boxes, in each draw.

    Args:
        points: S × b × k utilities.
        allowed: S × b.
        corner: k utilities, from which hypervolume is counted.

    Returns:
        Lower and upper corners, S × cells × k each; upper ones may be infinite, and empty boxes fill up.
    """
    inside = torch.where(allowed.unsqueeze(-1), torch.maximum(points, corner), corner)
    larger = (inside.unsqueeze(1) >= inside.unsqueeze(2)).all(-1)  # S × b × b: the second is at least as good
    beaten = (larger & (inside.unsqueeze(1) > inside.unsqueeze(2)).any(-1)).any(-1)
    inside = torch.where(beaten.unsqueeze(-1), corner, inside)
    if corner.numel() == PLANE:  # strips under a staircase, all draws at once
        order = inside[..., 0].argsort(dim=1)
        first = torch.gather(inside[..., 0], 1, order)
        second = torch.gather(inside[..., 1], 1, order)
        edge = corner[0].expand(len(points), 1)
        left = torch.cat([edge, first], dim=1)
        right = torch.cat([first, torch.full_like(edge, math.inf)], dim=1)
        heights = torch.cat([second, corner[1].expand(len(points), 1)], dim=1).flip(1).cummax(dim=1).values.flip(1)
        low, high = torch.stack([left, heights], -1), torch.stack([right, torch.full_like(heights, math.inf)], -1)
    else:
        low, high = _partitions(inside, corner)
    full = (high > low).all(-1)
    order = (~full).to(torch.int8).argsort(dim=1, stable=True)[:, : max(int(full.sum(1).max()), 1)]
    order = order.unsqueeze(-1).expand(-1, -1, corner.numel())
    return torch.gather(low, 1, order), torch.gather(high, 1, order)


def _partitions(inside: torch.Tensor, corner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the region with botorch, draw by draw, for more than two objectives."""
    from botorch.utils.multi_objective.box_decompositions.non_dominated import (  # noqa: PLC0415  rarely needed
        FastNondominatedPartitioning,
    )

    made = [FastNondominatedPartitioning(corner, Y=draw).get_hypercell_bounds() for draw in inside]
    most = max(bounds.shape[1] for bounds in made)
    padded = torch.stack([torch.cat([b, b[:, :1].expand(-1, most - b.shape[1], -1)], dim=1) for b in made])
    low, high = padded[:, 0].clone(), padded[:, 1].clone()
    for draw, bounds in enumerate(made):
        high[draw, bounds.shape[1] :] = low[draw, bounds.shape[1] :]  # empty
    return low, high


def log_minus(larger: torch.Tensor, smaller: torch.Tensor) -> torch.Tensor:
    """Return log(exp(larger) - exp(smaller)), and `LOWEST` where that is nothing."""
    apart = smaller - larger
    real = (apart < 0) & (larger > LOWEST)
    safe = torch.where(real, apart, torch.full_like(apart, -1.0))
    near = torch.log(-torch.expm1(safe.clamp_min(-0.7)))
    far = torch.log1p(-torch.exp(safe.clamp_max(-0.5)))
    return torch.where(real, larger + torch.where(safe > HALF, near, far), torch.full_like(apart, LOWEST))


def _log_h(u: torch.Tensor) -> torch.Tensor:
    """Return log(φ(u) + u Φ(u)); both branches of each choice are evaluated where they are finite."""
    mid = u.clamp_min(-1.0)
    direct = torch.log(torch.exp(-0.5 * mid**2 - 0.5 * LOG_2PI) + mid * torch.special.ndtr(mid))
    low = u.clamp(FAR, -1.0)
    ratio = -low * torch.special.erfcx(-low / math.sqrt(2.0)) * math.sqrt(math.pi / 2.0)
    # far out the difference 1 - ratio loses its digits: its series 1/u² - 3/u⁴ has them
    series = 1.0 / low**2 - 3.0 / low**4
    rest = torch.where(low < SERIES, series, (1.0 - ratio).clamp_min(1e-300))
    tail = -0.5 * low**2 - 0.5 * LOG_2PI + torch.log(rest)
    beyond = u.clamp_max(FAR)
    farther = -0.5 * beyond**2 - 0.5 * LOG_2PI - 2.0 * torch.log(-beyond)
    return torch.where(u > -1.0, direct, torch.where(u > FAR, tail, farther))
