"""Several trunks of one network, each trained on its own part of the labels: what the graph surrogates share.

The network is one of `networks.trunk.NETWORKS`; the columns it makes are laid out alike for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from orchestrator.domain import Array, Candidate, JsonObject
from orchestrator.networks import composition, devices, environments
from orchestrator.networks.child import Recipe, train_safely
from orchestrator.networks.crystals import content_key, crystals_of
from orchestrator.networks.formulas import formulas_of
from orchestrator.networks.graphs import GraphCache
from orchestrator.networks.training import Schedule, hold_out, shrink_and_perturb
from orchestrator.networks.trunk import Depth, Item, Kind, Trunk, kind_of, represent
from orchestrator.protocols import Options, Support
from orchestrator.surrogates.encoding import Scaling
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.transfer import Weights, carry

FLOOR = 1e-3
"""Smallest scale of a readout column: a column that the network leaves constant says nothing."""
FEWEST_TO_TRAIN = 2
"""Labels without which a trunk keeps its first weights."""
MANY_TO_HOLD_OUT = 5000
"""Labels from which a tenth is held out to choose the epoch: with 300 and 1,500 they are better trained on."""
SHORT, LONG, LABELS_AN_EPOCH = 10, 100, 10
"""Epochs: one for every ten labels, within 10 and 100.

Measured on cubic perovskites with 40, 100 and 200 labels: 8 to 20 epochs help, 40 and more hurt, because the trunk then
remembers its labels. Few labels therefore also mean a fit of two seconds.
"""
SMALL_BATCH, BATCH, MANY = 16, 32, 150
"""Graphs a step below and above so many labels."""

Mask = npt.NDArray[np.bool_]
Beside = Literal["environments", "composition"]


class TrunkOptions(Options):
    """Options that the graph surrogates share."""

    network: Literal["megnet", "cgcnn", "tensornet", "composition", "chgnet"] = Field(
        default="megnet",
        description="megnet; cgcnn, about three times as fast; tensornet, slow and smooth; composition, on formulas;"
        " chgnet, pretrained and ten times as slow",
    )
    finetune: Depth | None = Field(
        default=None,
        description="of the pretrained chgnet: frozen (its head only, the default), last (and the last layer) or full",
    )
    cutoff: float | None = Field(
        default=None, ge=2.0, le=10.0, description="Å; 4 unless given; 5 sees further and costs twice as much"
    )
    blocks: int | None = Field(default=None, ge=1, le=6, description="interaction blocks; the network's own number")
    epochs: int | None = Field(default=None, ge=1, description="passes over the labels; chosen from their number")
    rate: float = Field(default=5e-3, gt=0, description="highest learning rate")
    beside: tuple[Beside, ...] | None = Field(
        default=None, description="untrained features that the head uses besides; all that the network's inputs allow"
    )
    kernel: Literal["matern52", "rbf"] = "matern52"
    device: devices.Device = "auto"

    @model_validator(mode="after")
    def _only_a_pretrained_network_is_finetuned(self) -> Self:
        if self.finetune is not None and not kind_of(self.network).knows:
            message = f"'finetune' is for a pretrained network, and {self.network} starts from nothing; leave it out"
            raise ValueError(message)
        return self


class Trunks:
    """Trunks with the rows they make of candidates.

    The columns of `encode`, for K trunks and m properties: K blocks of width + m (readout, answers), then the blocks
    named in `beside`.

    Args:
        options: see `TrunkOptions`.
    """

    def __init__(self, options: TrunkOptions) -> None:
        self.options = options
        self.device, self.device_text = devices.choose(options.device)
        self.trunks: list[Trunk] = []
        self.carried: tuple[Weights, ...] = ()
        """Weights of another fit, from which a training that is not warm starts; see `transfer`."""
        self._graphs = GraphCache(self.cutoff)
        self._rows: dict[str, Array] = {}

    def __len__(self) -> int:
        """Count the trunks."""
        return len(self.trunks)

    @property
    def kind(self) -> Kind:
        """The network."""
        return kind_of(self.options.network)

    @property
    def cutoff(self) -> float:
        """Reach of the graphs, in Å."""
        return self.options.cutoff or self.kind.cutoff

    @property
    def beside(self) -> tuple[Beside, ...]:
        """Untrained blocks; a network of formulas asks for no crystals unless it is told to."""
        if self.options.beside is not None:
            return self.options.beside
        return ("composition",) if self.kind.reads == "composition" else ("environments", "composition")

    @property
    def inputs(self) -> frozenset[Support]:
        """Name what candidates must carry, one of which is enough."""
        formulas = self.kind.reads == "composition" and "environments" not in self.beside
        return frozenset({"structure", "composition"}) if formulas else frozenset({"structure"})

    @property
    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge inside."""
        return self.kind.knows

    @property
    def outputs(self) -> int:
        """Number m of properties."""
        return self.trunks[0].outputs

    @property
    def readout(self) -> int:
        """Columns of one trunk's readout."""
        return self.trunks[0].width

    @property
    def width(self) -> int:
        """Columns of one trunk."""
        return self.readout + self.outputs

    def items(self, candidates: Sequence[Candidate]) -> list[Item]:
        """Return what the network reads: a graph or a formula a candidate."""
        if self.kind.reads == "composition":
            return list(formulas_of(candidates))
        return list(self._graphs.get(crystals_of(candidates)))

    def train(self, candidates: Sequence[Candidate], y: Array, parts: Sequence[Mask], seed: int, *, warm: bool) -> str:
        """Train one trunk a part.

        Args:
            candidates: n labelled ones.
            y: n × m standardised labels.
            parts: which labels each trunk is trained on.
            seed: fixes weights and order.
            warm: start from the present weights, where their number fits.

        Returns:
            A line for people.
        """
        warm = warm and len(self.trunks) == len(parts) and self.outputs == y.shape[1]
        items = self.items(candidates)
        schedule = self._schedule(len(y), warm=warm)
        trunks: list[Trunk] = []
        notes: dict[str, None] = {}
        for k, part in enumerate(parts):
            trunk = self._new(y.shape[1], seed + k)
            if warm:
                trunk = shrink_and_perturb(self.trunks[k].state_dict(), trunk)
            elif self.carried:
                trunk = carry(self.carried[k % len(self.carried)], trunk)
            mine = np.flatnonzero(part).tolist()
            if len(mine) >= FEWEST_TO_TRAIN:
                own = [items[i] for i in mine]
                done = train_safely(
                    self._recipe(y.shape[1]),
                    trunk,
                    own,
                    y[mine],
                    schedule=schedule,
                    seed=seed + k,
                    device=self.device,
                    held_out=hold_out([candidates[i].id for i in mine], fewest=MANY_TO_HOLD_OUT),
                )
                trunk, notes = done.trunk, notes | dict.fromkeys(done.notes)
            trunks.append(trunk.eval())
        self.trunks, self._rows = trunks, {}
        seen = Counter(symbol for candidate in candidates for symbol in composition.fractions(candidate))
        rare = ", ".join(sorted(symbol for symbol, count in seen.items() if count == 1))
        other = ", from the weights of another fit" if self.carried else ""
        start = ", from the weights of the fit before" if warm else other
        once = f" (once only: {rare})" if rare else ""
        said = "".join(f"; {note}" for note in notes)
        return (
            f"{len(parts)} {self.options.network} trunks, {schedule.epochs} epochs each{start}; trained on the elements"
            f" {', '.join(sorted(seen))}{once}; what is said about others rests on their tabulated properties{said}"
        )

    def encode(self, candidates: Sequence[Candidate]) -> Array:
        """Return the raw columns, n × d; a candidate goes through the networks once after each training."""
        keys = self._keys(candidates)
        missing = {key: candidate for key, candidate in zip(keys, candidates, strict=True) if key not in self._rows}
        if missing:
            items = self.items(list(missing.values()))
            answers = np.hstack([represent(trunk, items, self.device) for trunk in self.trunks])
            self._rows |= dict(zip(missing, answers, strict=True))
        parts = [np.array([self._rows[key] for key in keys]).reshape(len(keys), len(self) * self.width)]
        for name in self.beside:
            if name == "composition":
                parts.append(composition.statistics(candidates))
            else:
                parts.append(environments.statistics(crystals_of(candidates)))
        return np.hstack(parts)

    def forget(self) -> None:
        """Drop rows and graphs: memory stays bounded where each of many candidates is asked about once."""
        self._graphs, self._rows = GraphCache(self.cutoff), {}
        environments.forget()

    def scaling(self, raw: Array) -> Scaling:
        """Bring every column to mean 0 and variance 1 over the labelled rows."""
        own = np.full(len(self) * self.width, FLOOR)
        return Scaling.standardise(raw, np.concatenate([own, *(_floors(name) for name in self.beside)]))

    def columns(self, k: int) -> list[int]:
        """Return the columns that trunk k's view has: its own block, then the shared ones."""
        total = len(self) * self.width + sum(len(_floors(name)) for name in self.beside)
        return [*range(k * self.width, (k + 1) * self.width), *range(len(self) * self.width, total)]

    def terms(self, count: int) -> tuple[Term, ...]:
        """Return the covariance over `count` blocks of trunks and the shared blocks.

        A trunk has two terms, a function of its readout and a straight line in its answers; a shared block too.
        """
        terms = []
        for k in range(count):
            start = k * self.width
            readout, answers = range(start, start + self.readout), range(start + self.readout, start + self.width)
            terms += [Term(self.options.kernel, (tuple(readout),)), Term("linear", (tuple(answers),))]
        start = count * self.width
        for name in self.beside:
            group = tuple(range(start, start + len(_floors(name))))
            terms += [Term(self.options.kernel, (group,)), Term("linear", (group,))]
            start += len(group)
        return tuple(terms)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], JsonObject]:
        """Return what `restore` needs."""
        arrays = {
            f"trunk.{k}.{name}": value.numpy()
            for k, trunk in enumerate(self.trunks)
            for name, value in trunk.state_dict().items()
        }
        return arrays, {"trunks": len(self), "outputs": self.outputs, "options": self._layout()}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> None:
        """Take the trunks, and the options that their columns depend on, from `state`."""
        layout = {"network": "megnet"} | rest["options"]  # fits from before there was a choice are MEGNet's
        self.options = self.options.model_copy(update=layout | {"beside": tuple(layout["beside"])})
        self._graphs, self._rows, self.trunks = GraphCache(self.cutoff), {}, []
        for k in range(rest["trunks"]):
            trunk = self._new(rest["outputs"], seed=0)
            start = f"trunk.{k}."
            own = {name[len(start) :]: value for name, value in arrays.items() if name.startswith(start)}
            trunk.load_state_dict({name: torch.from_numpy(value) for name, value in own.items()})
            self.trunks.append(trunk.eval())

    @property
    def architecture(self) -> dict[str, object]:
        """What must be equal for weights to carry over: network, cutoff and blocks."""
        return {name: self._layout()[name] for name in ("network", "cutoff", "blocks")}

    def _layout(self) -> JsonObject:
        return {
            "network": self.options.network,
            "cutoff": self.cutoff,
            "blocks": self.options.blocks or self.kind.blocks,
            "beside": list(self.beside),
            "kernel": self.options.kernel,
        }

    def _recipe(self, outputs: int) -> Recipe:
        return Recipe(self.options.network, outputs, self.cutoff, self.options.blocks)

    def _new(self, outputs: int, seed: int) -> Trunk:
        trunk = self._recipe(outputs).build(seed)
        if self.options.finetune is not None:
            trunk.learn(self.options.finetune)
        return trunk

    def _keys(self, candidates: Sequence[Candidate]) -> list[str]:
        if self.kind.reads == "composition":
            return [formula.key for formula in formulas_of(candidates)]
        return [content_key(crystal) for crystal in crystals_of(candidates)]

    def _schedule(self, n: int, *, warm: bool) -> Schedule:
        epochs = self.options.epochs
        if epochs is None:
            epochs = min(max(n // LABELS_AN_EPOCH, SHORT), LONG) // (2 if warm else 1)
        return Schedule(epochs=epochs, batch=SMALL_BATCH if n < MANY else BATCH, rate=self.options.rate)


def _floors(name: str) -> Array:
    if name == "composition":
        return composition.FLOOR * composition.spread()
    return np.full(environments.DIMENSION, composition.FLOOR)
