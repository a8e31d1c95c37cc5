"""The secret that host and client share: from the environment or from a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import platformdirs

from orchestrator.errors import NotConnected

VARIABLE = "MATLOOP_HOST_TOKEN"
SHORTEST = 16
"""Characters; a shorter token can be guessed."""


def home() -> Path:
    """Return the folder of hosts: `$MATLOOP_HOME/host`, or `host` in the user's data folder."""
    return Path(os.environ.get("MATLOOP_HOME") or platformdirs.user_data_dir("matloop")) / "host"


def own() -> Path:
    """Return the token file that host and client of one user on one computer share."""
    return home() / "token"


def find(file: Path | None = None, variable: str = VARIABLE) -> str | None:
    """Return the token, or None where none is set.

    Args:
        file: that holds it; default: the one of this user on this computer.
        variable: of the environment, which counts before the default file, not before a named one.

    Raises:
        NotConnected: others can read the file, or what it holds is too short.
    """
    if file is None and (given := os.environ.get(variable, "").strip()):
        return _long_enough(given, f"${variable}")
    place = file or own()
    try:
        mode = place.stat().st_mode
        text = place.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        if file is None:
            return None
        message = f"the token file {place} does not exist; copy it from the host, with mode 0600"
        raise NotConnected(message) from None
    if stat.S_IMODE(mode) & 0o077:
        message = f"others can read the token file {place} (mode {stat.S_IMODE(mode):04o}); chmod 600 it"
        raise NotConnected(message)
    return _long_enough(text, str(place))


def make() -> str:
    """Make a token for this user on this computer, readable by nobody else, and return it."""
    place = own()
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = secrets.token_urlsafe(32)
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(token + "\n")
    return token


def _long_enough(token: str, where: str) -> str:
    if len(token) < SHORTEST:
        message = f"the token in {where} has {len(token)} characters; {SHORTEST} or more were expected"
        raise NotConnected(message)
    return token
