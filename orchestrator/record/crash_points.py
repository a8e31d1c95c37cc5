"""Labelled points at which the crash harness kills the process.

In production nothing is installed, and a point costs one comparison.
"""

from __future__ import annotations

from collections.abc import Callable

_hooks: list[Callable[[str], None]] = []


def install(hook: Callable[[str], None]) -> Callable[[], None]:
    """Call a function at every labelled point from now on.

    Args:
        hook: gets the label, such as ``intent.in_txn``; it may kill the process or raise.

    Returns:
        A function that takes the hook away again.
    """
    _hooks.append(hook)
    return lambda: _hooks.remove(hook)


def reached(label: str) -> None:
    """Say that the point of this label is reached."""
    if _hooks:
        for hook in tuple(_hooks):
            hook(label)
