"""Training of a trunk in plain PyTorch: masked loss, one learning-rate cycle, averaged weights, warm start.

OneCycle: Smith and Topin, doi:10.48550/arXiv.1708.07120. Warm start by shrink and perturb: Ash and Adams, NeurIPS 2020,
doi:10.48550/arXiv.1910.08475. Effort is counted in passes over structures, never in seconds, so that the same seed
gives the same weights on a slow day.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from orchestrator.domain import Array
from orchestrator.errors import Diverged
from orchestrator.networks.trunk import ElementTable, Item, Trunk

CLIP = 1.0
"""Largest norm of a gradient."""
AVERAGE = 0.95
"""Weight of the past in the running average of the weights."""
SHRINK, PERTURB = 0.5, 0.1
"""Warm start: old weights times the first plus fresh ones times the second (Ash and Adams: 0.4–0.6 and small)."""


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train.

    Args:
        epochs: passes over the training graphs.
        batch: graphs a step.
        rate: highest learning rate.
        decay: weight decay of AdamW.
    """

    epochs: int
    batch: int
    rate: float
    decay: float = 1e-4


def train(
    trunk: Trunk, items: Sequence[Item], y: Array, *, schedule: Schedule, seed: int, device: torch.device
) -> Trunk:
    """Train a trunk.

    Args:
        trunk: starting weights; changed in place.
        items: n graphs or formulas.
        y: n × m standardised labels, NaN where absent.
        schedule: effort.
        seed: fixes the order of the graphs.
        device: where to compute.

    Returns:
        The trunk with the running average of its weights, on the CPU, in evaluation mode.

    Raises:
        Diverged: the loss is no longer finite.
    """
    rng = np.random.default_rng(seed)
    n = len(items)
    size = max(2, min(schedule.batch, n))
    steps = max(1, -(-n // size))
    trunk.train().to(device, torch.float32)
    optimiser = torch.optim.AdamW(trunk.parameters(), lr=schedule.rate, weight_decay=schedule.decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=schedule.rate, total_steps=max(schedule.epochs * steps + 1, 10), pct_start=0.2
    )
    average = {name: value.detach().clone() for name, value in trunk.state_dict().items()}
    for _ in range(schedule.epochs):
        for part in np.array_split(rng.permutation(n), steps):
            batch = trunk.collate([items[i] for i in part], device, torch.float32)
            wanted = torch.from_numpy(y[part]).to(device, torch.float32)
            present = torch.isfinite(wanted)
            error = torch.where(present, trunk(batch) - torch.nan_to_num(wanted), 0.0)
            # Huber: quadratic near zero, so that a few wrong labels do not steer the weights.
            loss = torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="sum") / present.sum()
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(trunk.parameters(), CLIP)
            if not torch.isfinite(norm):
                message = f"training on {n} crystals gave a gradient of {float(norm)}; lower the learning rate"
                raise Diverged(message)
            optimiser.step()
            cycle.step()
            for name, value in trunk.state_dict().items():
                average[name].lerp_(value, 1 - AVERAGE) if value.is_floating_point() else average[name].copy_(value)
    trunk.load_state_dict(average)
    return trunk.eval().to("cpu")


def shrink_and_perturb(old: Mapping[str, torch.Tensor], fresh: Trunk) -> Trunk:
    """Return `fresh` with mostly the old weights, moved towards zero and perturbed by fresh ones.

    Args:
        old: weights of an earlier fit.
        fresh: a new trunk; changed in place.

    Returns:
        The same trunk.
    """
    state = fresh.state_dict()
    tables = {f"{name}.weight" for name, part in fresh.named_modules() if isinstance(part, ElementTable)}
    mixed = {
        name: SHRINK * old[name] + PERTURB * value if _is_matrix(value) and name not in tables else old[name]
        for name, value in state.items()
    }
    fresh.load_state_dict(mixed)
    return fresh


def copy_of(trunk: Trunk) -> dict[str, torch.Tensor]:
    """Return the weights, detached and copied."""
    return copy.deepcopy({name: value.detach().cpu() for name, value in trunk.state_dict().items()})


def _is_matrix(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.dim() > 1
