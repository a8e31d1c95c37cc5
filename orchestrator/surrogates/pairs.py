"""Which network goes with which uncertainty: the pairs that are shipped, and why others are refused.

An impossible pair is refused when its surrogate is built, which for a campaign file means in the first second and
offline (`matloop check`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import IncompatibleError
from orchestrator.networks.trunk import NETWORKS, kind_of

HeadName = Literal["gp", "ensemble", "laplace"]
HEADS: dict[HeadName, str] = {"gp": "gnn_gp", "ensemble": "gnn_ensemble", "laplace": "gnn_laplace"}
"""Head → surrogate that has it. The head ``gp`` is exact, and variational above `exact_up_to` labels."""


@dataclass(frozen=True)
class Pair:
    """A network with an uncertainty.

    Args:
        network: one of `orchestrator.networks.trunk.NETWORKS`.
        head: one of `HEADS`.
        refused: why it is not shipped; empty where it is.
    """

    network: str
    head: HeadName
    refused: str = ""

    @property
    def surrogate(self) -> str:
        """Name of the surrogate, whose option `network` names the network."""
        return HEADS[self.head]


def pair(network: str, head: HeadName) -> Pair:
    """Return one pair of the table.

    Raises:
        SurrogateError: there is no such network.
    """
    kind = kind_of(network)
    if kind.knows and head == "ensemble":
        reason = (
            f"the members of an ensemble differ by their first weights, and those of {network!r} are given: its"
            " disagreement would say nothing of what the labels leave open; use 'gnn_gp' or 'gnn_laplace'"
        )
        return Pair(network, head, reason)
    return Pair(network, head)


def every_pair() -> Iterator[Pair]:
    """List the whole table, refused pairs too."""
    for network in NETWORKS:
        for head in HEADS:
            yield pair(network, head)


def check(network: str, head: HeadName) -> None:
    """Refuse a pair that is not shipped.

    Raises:
        IncompatibleError: with the reason.
        SurrogateError: there is no such network.
    """
    found = pair(network, head)
    if found.refused:
        message = f"network {network!r} does not go with {found.surrogate!r}: {found.refused}"
        raise IncompatibleError(message)
