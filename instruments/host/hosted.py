"""What the host is asked to serve: a plug-in's name, ``package.module:factory``, or an instrument of a lab file."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from instruments.host.station import Bounds
from orchestrator import plugins
from orchestrator.errors import PluginError
from orchestrator.protocols import Instrument


@dataclass(frozen=True)
class Hosted:
    """One instrument to be served.

    Args:
        name: by which clients ask for it.
        instrument: built, not opened.
        envelope: of the lab file.
    """

    name: str
    instrument: Instrument
    envelope: Mapping[str, Bounds] = field(default_factory=dict)


def build(text: str, options: Mapping[str, Any]) -> list[Hosted]:
    """Build what a command-line argument names.

    Args:
        text: ``[ALIAS=]NAME``, ``[ALIAS=]package.module:factory`` or ``lab.yaml[#INSTRUMENT]``.
        options: of the driver; a lab file has its own.

    Raises:
        PluginError: there is no such thing, or it is no instrument.
    """
    alias, _, what = text.rpartition("=")
    file, _, wanted = what.partition("#")
    if file.endswith((".yaml", ".yml")):
        if options:
            message = f"{file} holds the options of its instruments; leave --options away"
            raise PluginError(message)
        return _of_lab(Path(file), wanted, alias)
    return [Hosted(alias or what.rpartition(":")[2], _built(what, options))]


def _of_lab(file: Path, wanted: str, alias: str) -> list[Hosted]:
    # The reader lives in `orchestrator.config`, which drivers do not import; it comes through the door of all parts.
    points = {point.name: point for point in entry_points(group="matloop.lab")}
    lab = points["file"].load()(file)
    if wanted and wanted not in lab.instruments:
        message = f"{file} has no instrument {wanted!r}; it has: {', '.join(lab.instruments)}"
        raise PluginError(message)
    hosted = []
    for name, one in lab.instruments.items():
        if wanted and name != wanted:
            continue
        built = plugins.build(
            "instruments", one.use, one.options, base=str(file.parent), allowed_modules=lab.allowed_modules
        )
        envelope = {parameter: Bounds(bounds.min, bounds.max) for parameter, bounds in one.envelope.items()}
        hosted.append(Hosted((alias if wanted else "") or name, built, envelope))
    return hosted


def _built(what: str, options: Mapping[str, Any]) -> Instrument:
    if ":" not in what:
        return _plugin(what, options)
    module, _, name = what.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the author runs this beside the driver
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        message = f"{what!r} cannot be imported: {error}; write package.module:factory, importable from this folder"
        raise PluginError(message) from error
    if inspect.isclass(found):
        return _plugin(what, options, module)
    made = found(**options)
    if not isinstance(made, Instrument):
        message = f"{what} returned {made!r:.100}; an instrument with the six methods was expected"
        raise PluginError(message)
    return made


def _plugin(what: str, options: Mapping[str, Any], *modules: str) -> Instrument:
    built: Instrument = plugins.build("instruments", what, options, base=str(Path.cwd()), allowed_modules=modules)
    return built
