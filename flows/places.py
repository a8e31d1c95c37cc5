"""Where Matloop keeps its files."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """Return the user's data folder of Matloop; the variable MATLOOP_HOME names another one."""
    if named := os.environ.get("MATLOOP_HOME"):
        return Path(named).expanduser()
    import platformdirs  # noqa: PLC0415  not needed by --help

    return Path(platformdirs.user_data_dir("matloop"))
