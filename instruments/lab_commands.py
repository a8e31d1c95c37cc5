"""`matloop lab …`: scan devices that describe themselves, and check the instruments of a lab file.

Only click is imported here, so that help appears at once; everything else inside the commands.
"""

from __future__ import annotations

import click


@click.group()
def lab() -> None:
    """Scan devices that describe themselves; check the instruments of a lab file."""
