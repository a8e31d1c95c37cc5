"""Writes a driver package to begin with: driver, simulator, and a test that holds it to the contract."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from orchestrator.errors import PluginError

NAME = re.compile(r"^[a-z][a-z0-9_]*$")
FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "{package}/__init__.py": "__init__.py.txt",
    "{package}/driver.py": "driver.py.txt",
    "{package}/simulator.py": "simulator.py.txt",
    "tests/test_contract.py": "test_contract.py.txt",
}


def write(name: str, folder: Path) -> list[Path]:
    """Write the package.

    Args:
        name: of the instrument, as campaign files will say it; lower case.
        folder: to make; it must not exist, or be empty.

    Returns:
        The files.

    Raises:
        PluginError: the name is none, or the folder is in use.
    """
    if not NAME.match(name):
        message = f"{name!r} is no name for a driver; use lower-case letters, digits and '_', such as 'tube_furnace'"
        raise PluginError(message)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"{folder} is there already and not empty; give another one with --folder"
        raise PluginError(message)
    words = {
        "@name@": name,
        "@Class@": "".join(part.capitalize() for part in name.split("_")),
        "@package@": f"{name}_driver",
        "@distribution@": f"{name.replace('_', '-')}-driver",
    }
    template = resources.files("instruments.conformance") / "driver_template"
    written = []
    for target, source in FILES.items():
        text = (template / source).read_text(encoding="utf-8")
        for word, meaning in words.items():
            text = text.replace(word, meaning)
        path = folder / target.format(package=words["@package@"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
