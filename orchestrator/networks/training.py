"""Training of a trunk in plain PyTorch: masked loss, one learning-rate cycle, averaged weights, warm start.

OneCycle: Smith and Topin, doi:10.48550/arXiv.1708.07120. Averaged weights: Polyak and Juditsky, doi:10.1137/0330046.
Warm start by shrink and perturb: Ash and Adams, NeurIPS 2020, doi:10.48550/arXiv.1910.08475. Effort is counted in
passes over structures, never in seconds, so that the same seed gives the same weights on a slow day. A training that
was cut off goes on from its checkpoint and ends with the weights it would have had, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from orchestrator.domain import Array
from orchestrator.errors import Diverged
from orchestrator.networks import devices
from orchestrator.networks.checkpoints import Checkpoint
from orchestrator.networks.trunk import Item, Trunk

CLIP = 1.0
"""Largest norm of a gradient."""
AVERAGE = 0.95
"""Weight of the past in the running average of the weights."""
SHRINK, PERTURB = 0.5, 0.1
"""Warm start: old weights times the first plus fresh ones times the second (Ash and Adams: 0.4–0.6 and small)."""
RISE, START, END = 0.2, 25.0, 1e4
"""The cycle: share of steps until the highest rate, its ratio to the first rate, and that of the first to the last."""
CALM, EAGER, SECOND = 0.95, 0.85, 0.999
"""AdamW's memory of gradients at the lowest and the highest rate, and of their squares."""
COMPILE_FROM = 20_000
"""Steps from which `torch.compile` pays on CUDA: it takes a minute or two before the first step."""

Mask = npt.NDArray[np.bool_]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train.

    Args:
        epochs: passes over the training graphs.
        batch: graphs a step.
        rate: highest learning rate.
        decay: weight decay of AdamW.
        patience: epochs without a better held-out loss after which training stops; None trains to the end. Either way
            the best weights are kept where labels are held out.
        precision: ``auto`` computes in bfloat16 where the device is made for it, never on a CPU.
        compiled: ``auto`` compiles the network on CUDA where the training is long enough, never on a CPU.
    """

    epochs: int
    batch: int
    rate: float
    decay: float = 1e-4
    patience: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compiled: Literal["auto", "never"] = "auto"


@dataclass(frozen=True)
class Progress:
    """Where a training stands: epochs made and wanted, loss of the last one, and the loss on held-out labels if any."""

    epoch: int
    epochs: int
    loss: float
    held_out: float | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training came to.

    Args:
        trunk: with its averaged weights, on the CPU, in evaluation mode.
        epochs: passes made.
        best_epoch: after which the weights are from; `epochs` without held-out labels.
        held_out: loss on the held-out labels with these weights; None without any.
        notes: what people should know.
    """

    trunk: Trunk
    epochs: int
    best_epoch: int
    held_out: float | None = None
    notes: tuple[str, ...] = ()


def train(
    trunk: Trunk,
    items: Sequence[Item],
    y: Array,
    *,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    held_out: Mask | None = None,
) -> Trunk:
    """Train a trunk; see `train_noted`, whose trunk this returns."""
    return train_noted(trunk, items, y, schedule=schedule, seed=seed, device=device, held_out=held_out).trunk


def train_noted(
    trunk: Trunk,
    items: Sequence[Item],
    y: Array,
    *,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    held_out: Mask | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a trunk and say what happened.

    Args:
        trunk: starting weights; changed in place. Parameters that require no gradient stay as they are.
        items: n graphs or formulas.
        y: n × m standardised labels, NaN where absent.
        schedule: effort.
        seed: fixes the order of the graphs.
        device: where to compute.
        held_out: which items are not trained on, but decide which epoch's weights are kept; None trains on all.
        checkpoint: where to go on from, and to keep what is needed for it.
        progress: called after each epoch.

    Returns:
        The trunk with the running average of its weights, on the CPU, in evaluation mode.

    Raises:
        Diverged: the loss is no longer finite.
    """
    labels = torch.from_numpy(np.array(y, dtype=np.float32))
    kept = np.zeros(len(items), dtype=np.bool_) if held_out is None else held_out & np.isfinite(y).any(axis=1)
    mine = np.arange(len(items)) if held_out is None else np.flatnonzero(~held_out)
    now = _Training(trunk, schedule, len(mine), device)
    judged = _Judge(now, [items[int(i)] for i in np.flatnonzero(kept)], labels[np.flatnonzero(kept)])
    if checkpoint is not None:
        checkpoint.bind(trunk, items, y, kept=kept, schedule=schedule, seed=seed)
        _go_on(now, judged, checkpoint)
    for epoch in range(now.epoch, schedule.epochs):
        if judged.is_enough(epoch, schedule.patience):
            break
        loss = torch.zeros((), device=device)
        # The order depends on seed and epoch alone, so that a training that goes on needs no generator's state.
        order = mine[np.random.default_rng([seed, epoch]).permutation(len(mine))]
        for part in np.array_split(order, now.steps_an_epoch):
            batch = trunk.compress([items[i] for i in part], device, torch.float32)
            loss += now.step(batch, labels[part].to(device))
        now.epoch = epoch + 1
        judged.look()
        if progress is not None:
            mean = float(loss) / now.steps_an_epoch
            progress(Progress(now.epoch, schedule.epochs, mean, judged.last))
        if checkpoint is not None and checkpoint.is_due(now.epoch, schedule.epochs):
            _keep(now, judged, checkpoint)
    best = judged.best if judged.best is not None else now.averaged()
    trunk.load_state_dict(best)
    notes = (*now.notes, *judged.notes(schedule.epochs))
    held_out_loss = judged.best_loss if judged.best is not None else None
    best_epoch = judged.best_epoch if judged.best is not None else now.epoch
    return Trained(trunk.eval().to("cpu"), now.epoch, best_epoch, held_out_loss, notes)


class _Training:
    """The moving parts of one training: weights, their average, the optimiser, the step that is due."""

    def __init__(self, trunk: Trunk, schedule: Schedule, n: int, device: torch.device) -> None:
        size = max(1, min(schedule.batch, n))
        self.n, self.device, self.schedule = n, device, schedule
        self.steps_an_epoch = max(1, -(-n // size))
        self.total = max(schedule.epochs * self.steps_an_epoch + 1, 10)
        self.trunk = trunk.train().to(device, torch.float32)
        self.parameters = {name: value for name, value in trunk.named_parameters() if value.requires_grad}
        if not self.parameters:
            message = "every parameter of the network is frozen, so there is nothing to train; leave some free"
            raise Diverged(message)
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        # One fused call for all weights: on a CPU a step takes a tenth less time (measured).
        self.optimiser = torch.optim.AdamW(self._groups(), lr=schedule.rate, weight_decay=schedule.decay, fused=True)
        self.epoch = self.count = 0
        self.notes: list[str] = []
        half = schedule.precision == "bfloat16" or (schedule.precision == "auto" and devices.has_bfloat16(device))
        self.autocast = torch.autocast(device.type, torch.bfloat16) if half else nullcontext()
        self.forward = self._compiled()

    def step(self, batch: Any, wanted: torch.Tensor) -> torch.Tensor:
        """Make one step on k items with labels k × m; return the loss."""
        rate, memory = cycle(self.count, self.total, self.schedule.rate)
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = rate * group["share"], (memory, SECOND)
        with self.autocast:
            answer = self.forward(batch)
        loss = masked_loss(answer.float(), wanted)
        self.optimiser.zero_grad(set_to_none=True)
        with devices.repeatable(wanted.device):
            torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), CLIP)
        if not torch.isfinite(norm):
            message = f"training on {self.n} crystals gave a gradient of {float(norm)}; lower the learning rate"
            raise Diverged(message)
        self.optimiser.step()
        self.count += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - AVERAGE)
        return loss.detach()

    def averaged(self) -> Tensors:
        """Return the present state with the running average in place of the trained weights."""
        state = {name: value.detach().clone() for name, value in self.trunk.state_dict().items()}
        return state | {name: value.clone() for name, value in self.average.items()}

    def _groups(self) -> list[dict[str, Any]]:
        """Return the weights by their share of the learning rate; pretrained ones have less of it."""
        shares = {name: self.trunk.rate_of(name) for name in self.parameters}
        return [
            {"params": [value for name, value in self.parameters.items() if shares[name] == share], "share": share}
            for share in dict.fromkeys(shares.values())
        ]

    def _compiled(self) -> Callable[[Any], torch.Tensor]:
        steps = self.schedule.epochs * self.steps_an_epoch
        if self.schedule.compiled == "never" or self.device.type != "cuda" or steps < COMPILE_FROM:
            return self.trunk
        self.notes.append("the network was compiled (torch.compile)")
        compiled: Callable[[Any], torch.Tensor] = torch.compile(self.trunk, dynamic=True)
        return compiled


@dataclass(eq=False)
class _Judge:
    """Watches the held-out labels and remembers the weights that did best on them."""

    now: _Training
    items: Sequence[Item]
    labels: torch.Tensor
    best: Tensors | None = None
    best_loss: float = math.inf
    best_epoch: int = 0
    last: float | None = field(default=None)

    def look(self) -> None:
        """Judge the averaged weights of this epoch."""
        if not self.items:
            return
        now, size = self.now, self.now.schedule.batch
        state, trunk, lost, count = now.averaged(), now.trunk, 0.0, 0
        trunk.eval()
        with torch.no_grad():
            for i in range(0, len(self.items), size):
                batch = trunk.compress(self.items[i : i + size], now.device, torch.float32)
                answer = torch.func.functional_call(trunk, state, (batch,))
                wanted = self.labels[i : i + size].to(now.device)
                present = int(torch.isfinite(wanted).sum())
                lost, count = lost + float(masked_loss(answer, wanted)) * present, count + present
        trunk.train()
        self.last = lost / count
        if self.last < self.best_loss:
            self.best, self.best_loss, self.best_epoch = state, self.last, now.epoch

    def is_enough(self, epoch: int, patience: int | None) -> bool:
        """Say whether nothing got better for so long that more epochs are in vain."""
        return patience is not None and self.best is not None and epoch - self.best_epoch >= patience

    def notes(self, epochs: int) -> list[str]:
        """Return what people should know of it."""
        if self.best is None:
            return []
        early = f", stopped after {self.now.epoch} of {epochs}" if self.now.epoch < epochs else ""
        return [f"kept the weights of epoch {self.best_epoch}, best on {len(self.items)} held-out labels{early}"]


def masked_loss(answer: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean Huber loss over the labels that are there; a few wrong ones then steer little.

    Args:
        answer: k × m.
        wanted: k × m, NaN where absent.
    """
    present = torch.isfinite(wanted)
    error = torch.where(present, answer - torch.nan_to_num(wanted), 0.0)
    loss = torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="sum")
    return loss / present.sum().clamp(min=1)


def cycle(step: int, total: int, highest: float) -> tuple[float, float]:
    """Return the learning rate and the memory of gradients of one step of OneCycle, with cosines as PyTorch has them.

    Args:
        step: from 0.
        total: steps of the whole cycle.
        highest: learning rate.
    """
    first = highest / START
    top = RISE * total - 1.0
    if step <= top:
        return _between(first, highest, step / top), _between(CALM, EAGER, step / top)
    share = (step - top) / (total - 1 - top)
    return _between(highest, first / END, share), _between(EAGER, CALM, share)


def hold_out(ids: Sequence[str], *, share: float = 0.1, fewest: int = 100) -> Mask | None:
    """Choose the labels that decide when to stop, by their candidates' ids alone.

    So a later fit with more labels holds the same candidates out, and a warm start has never been trained on them.

    Args:
        ids: of the candidates, SHA-256 in hexadecimal digits; replicates stay together.
        share: of the labels, on average.
        fewest: labels below which none is held out, because each is worth more in training.

    Returns:
        n flags; None where nothing is held out.
    """
    if len(ids) < fewest:
        return None
    chance = np.array([int(one[-8:], 16) / 16**8 for one in ids])  # the end: folds are made from the beginning
    mask: Mask = chance < share
    return mask if mask.any() and not mask.all() else None


def shrink_and_perturb(old: Mapping[str, torch.Tensor], fresh: Trunk) -> Trunk:
    """Return `fresh` with mostly the old weights, moved towards zero and perturbed by fresh ones.

    Args:
        old: weights of an earlier fit.
        fresh: a new trunk; changed in place.

    Returns:
        The same trunk.
    """
    state = fresh.state_dict()
    mixed = {
        name: SHRINK * old[name] + PERTURB * value if _is_matrix(value) and not fresh.is_kept(name) else old[name]
        for name, value in state.items()
    }
    fresh.load_state_dict(mixed)
    return fresh


def copy_of(trunk: Trunk) -> dict[str, torch.Tensor]:
    """Return the weights, detached and copied."""
    return copy.deepcopy({name: value.detach().cpu() for name, value in trunk.state_dict().items()})


def _keep(now: _Training, judged: _Judge, checkpoint: Checkpoint) -> None:
    """Write down everything that the next epoch depends on."""
    parts: dict[str, Tensors] = {"trunk": now.trunk.state_dict(), "average": now.average, "best": judged.best or {}}
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        own = [(name, now.optimiser.state[value]) for name, value in now.parameters.items()]
        parts[moment] = {name: state[moment] for name, state in own if moment in state}
    numbers = {
        "epoch": now.epoch,
        "count": now.count,
        "best_epoch": judged.best_epoch,
        "best_loss": None if judged.best is None else judged.best_loss,
    }
    checkpoint.write(parts, numbers)


def _go_on(now: _Training, judged: _Judge, checkpoint: Checkpoint) -> None:
    """Take up a training where its checkpoint left it."""
    kept = checkpoint.read(now.device)
    if kept is None:
        return
    parts, numbers = kept
    now.trunk.load_state_dict(parts["trunk"])
    now.average = {name: parts["average"][name] for name in now.average}
    for name, value in now.parameters.items():
        state = {moment: parts[moment][name] for moment in ("exp_avg", "exp_avg_sq", "step") if name in parts[moment]}
        if state:
            now.optimiser.state[value] = state
    now.epoch, now.count = int(numbers["epoch"]), int(numbers["count"])
    if numbers["best_loss"] is not None:
        judged.best, judged.best_loss = parts["best"], float(numbers["best_loss"])
        judged.best_epoch = int(numbers["best_epoch"])
    now.notes.append(f"went on after epoch {now.epoch}, where it was cut off")


def _between(one: float, other: float, share: float) -> float:
    return other + (one - other) * 0.5 * (1.0 + math.cos(math.pi * share))


def _is_matrix(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.dim() > 1
