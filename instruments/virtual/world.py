"""The virtual world: where samples are and what has been done to them, shared by the device servers as files.

``log.jsonl`` holds every physical act with the key of its order, append-only. It is the only truth for "was this order
carried out twice" and for what a device really showed. Nothing in Matloop's own adapters reads it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instruments.virtual.chemistry import Sample
from orchestrator.errors import Fault

try:
    import fcntl
except ImportError:  # Windows has no such locks; there one process may serve the lab
    fcntl = None  # type: ignore[assignment]


class World:
    """One folder of files.

    Args:
        folder: is made where it is missing.
        seed: of everything random.
        speed: virtual seconds in a second.
    """

    def __init__(self, folder: Path, *, seed: int = 0, speed: float = 3600.0) -> None:
        self.folder = folder
        self.seed = seed
        self.speed = speed
        (folder / "samples").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the other devices out."""
        with (self.folder / "lock").open("w") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def log(self, device: str, event: str, **content: Any) -> None:
        """Append one line to the log, and see it on the disk.

        Args:
            device: name.
            event: ``started``, ``finished``, ``failed``, ``aborted``, ``cut``, ``refused`` or ``fault``.
            content: JSON content.
        """
        line = {"at": time.time(), "device": device, "event": event, **content}
        with self.locked(), (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def events(self, device: str | None = None) -> list[dict[str, Any]]:
        """Return the log's lines, of one device or of all."""
        path = self.folder / "log.jsonl"
        if not path.exists():
            return []
        with self.locked():
            text = path.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [line for line in lines if device is None or line["device"] == device]

    def new_vial(self) -> int:
        """Take an empty vial from the rack, and return its number, from 1."""
        with self.locked():
            number = 1 + max((int(path.stem) for path in (self.folder / "samples").glob("*.json")), default=0)
            self._write(number, Sample(spoiled="empty"))
            return number

    def has(self, vial: int) -> bool:
        """Say whether there is such a vial."""
        return self._path(vial).exists()

    def sample(self, vial: int) -> Sample:
        """Return the state of a sample.

        Raises:
            Fault: there is no such vial.
        """
        if not self.has(vial):
            message = f"there is no vial {vial} in {self.folder / 'samples'}; dispense one first"
            raise Fault(message)
        return Sample.from_json(json.loads(self._path(vial).read_text(encoding="utf-8")))

    def keep(self, vial: int, sample: Sample) -> None:
        """Store the new state of a sample."""
        with self.locked():
            self._write(vial, sample)

    def state(self, device: str) -> dict[str, Any]:
        """Return what a device remembers over a loss of power."""
        path = self.folder / f"{device}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def keep_state(self, device: str, state: dict[str, Any]) -> None:
        """Store what a device remembers."""
        _replace(self.folder / f"{device}.json", state)

    def refill(self, device: str) -> None:
        """Fill up what a device uses, as a person does, whether the lab runs or not."""
        with self.locked():
            _replace(self.folder / f"{device}.refills.json", {"times": self.refills(device) + 1})

    def refills(self, device: str) -> int:
        """Count how often a person has filled up what a device uses."""
        path = self.folder / f"{device}.refills.json"
        return int(json.loads(path.read_text(encoding="utf-8"))["times"]) if path.exists() else 0

    def _path(self, vial: int) -> Path:
        return self.folder / "samples" / f"{vial:04d}.json"

    def _write(self, vial: int, sample: Sample) -> None:
        _replace(self._path(vial), sample.to_json())


def _replace(path: Path, content: dict[str, Any]) -> None:
    other = path.with_suffix(".new")
    other.write_text(json.dumps(content), encoding="utf-8")
    other.replace(path)
