"""Where orders are laid down as files and answers are picked up: for people, and for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from instruments.people import tasks
from instruments.people.tasks import Content
from orchestrator.domain import Result


class Desk(Protocol):
    """What `Operator` needs of a folder."""

    folder: Path

    def prepare(self) -> None:
        """Make the folders, or raise an OSError."""

    def issue(self, card: Content) -> None:
        """Lay an order down, unless it lies there already."""

    def card(self, key: str) -> Content | None:
        """Return the order of a key, withdrawn or not."""

    def take(self, card: Content) -> Result | None:
        """Return the result of an order, where it is there and right."""

    def withdraw(self, key: str, reason: str) -> bool:
        """Take an order back, so that nobody begins work on it; say whether certainly nobody had."""

    def is_withdrawn(self, key: str) -> bool:
        """Say whether it was taken back."""

    def waiting(self) -> int:
        """Return how many orders wait."""


class TaskCards:
    """Cards for people: see `tasks`.

    Args:
        folder: of the cards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folders."""
        tasks.prepare(self.folder)

    def issue(self, card: Content) -> None:
        """Put a card into the outbox."""
        tasks.issue(self.folder, card)

    def card(self, key: str) -> Content | None:
        """Read a card."""
        return tasks.read_card(self.folder, key)

    def take(self, card: Content) -> Result | None:
        """Read the answer to a card."""
        return tasks.take(self.folder, card)

    def withdraw(self, key: str, reason: str) -> bool:
        """Take a card back; people may have read it already."""
        tasks.withdraw(self.folder, key, reason)
        return False

    def is_withdrawn(self, key: str) -> bool:
        """Say whether a card was taken back."""
        return tasks.is_withdrawn(self.folder, key)

    def waiting(self) -> int:
        """Return how many cards wait."""
        return len(tasks.waiting(self.folder))
