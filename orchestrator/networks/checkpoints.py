"""What a training needs to go on after it was cut off: one safetensors file, replaced as a whole."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from orchestrator.domain import Array, canonical_json, sha256
from orchestrator.networks.graphs import Graph

if TYPE_CHECKING:
    from orchestrator.networks.training import Mask, Schedule
    from orchestrator.networks.trunk import Item, Trunk

FILE = "training.safetensors"
PARTS = ("trunk", "average", "best", "exp_avg", "exp_avg_sq", "step")

_log = logging.getLogger(__name__)


class Checkpoint:
    """Keeps a training's state in a folder every few epochs.

    Args:
        folder: of the caller; made where it is missing.
        every: epochs between two writings; the last epoch is written too.
    """

    def __init__(self, folder: Path, every: int = 5) -> None:
        self.folder, self.every = folder, every
        self._mark = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / FILE

    def bind(self, trunk: Trunk, items: Sequence[Item], y: Array, *, kept: Mask, schedule: Schedule, seed: int) -> None:
        """Say which training this is: a file of another one is not gone on with.

        Args:
            trunk: with its starting weights.
            items: n graphs or formulas.
            y: n × m labels.
            kept: n flags of the held-out ones.
            schedule: effort.
            seed: of the order.
        """
        weights = b"".join(_bytes(value) for value in trunk.state_dict().values())
        what = {
            "schedule": asdict(schedule),
            "seed": seed,
            "weights": sha256(weights),
            "labels": sha256(np.ascontiguousarray(y, dtype=np.float64).tobytes() + np.packbits(kept).tobytes()),
            "items": sha256(b"".join(_content(item) for item in items)),
        }
        self._mark = sha256(canonical_json(what))

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Say whether to write after this epoch."""
        return epoch % self.every == 0 or epoch == epochs

    def write(self, parts: Mapping[str, Mapping[str, torch.Tensor]], numbers: Mapping[str, Any]) -> None:
        """Replace the file.

        Args:
            parts: tensors by part and name.
            numbers: JSON content.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{part}/{name}": value.detach().cpu().contiguous().clone()
            for part, own in parts.items()
            for name, value in own.items()
        }
        partial = self.folder / f".{FILE}.{os.getpid()}.partial"
        save_file(tensors, partial, {"mark": self._mark, "numbers": json.dumps(dict(numbers))})
        partial.replace(self.path)

    def read(self, device: torch.device) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None:
        """Return what `write` wrote of this very training.

        Args:
            device: where the tensors go.

        Returns:
            Parts and numbers; None where there is nothing to go on from.
        """
        if not self.path.exists():
            return None
        parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in PARTS}
        try:
            with safe_open(self.path, framework="pt") as file:
                stated = file.metadata() or {}
                if stated.get("mark") != self._mark:
                    _log.warning("%s is of another training (labels, settings or seed); starting anew", self.path)
                    return None
                numbers = json.loads(stated["numbers"])
                for key in file.keys():  # noqa: SIM118  no mapping
                    part, name = key.split("/", 1)
                    # AdamW's fused step counts on the device of its weights.
                    parts[part][name] = file.get_tensor(key).to(device)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            _log.warning("the checkpoint %s cannot be used (%s); starting anew", self.path, error)
            return None
        return parts, numbers


def _content(item: Item) -> bytes:
    arrays = (
        (item.species, item.positions, item.edges, item.shifts)
        if isinstance(item, Graph)
        else tuple(getattr(item, name) for name in ("species", "fractions"))
    )
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def _bytes(value: torch.Tensor) -> bytes:
    return np.ascontiguousarray(value.detach().cpu().numpy()).tobytes()
