"""Names → classes: the one door through which every part comes, the built-in ones too.

A name is an entry point of one of the groups ``matloop.instruments``, ``matloop.surrogates``, ``matloop.acquisition``,
``matloop.spaces``, ``matloop.stopping`` and ``matloop.derived``; or a dotted path ``package.module:Class``, where the
lab file allows that module. A campaign file is data: it can name code, never bring any.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.errors import PluginError
from orchestrator.protocols import PROTOCOLS, Options


@dataclass(frozen=True)
class Listing:
    """One plug-in that could be used, as `matloop plugins` prints it."""

    kind: str
    name: str
    path: str
    distribution: str
    version: str


def available(kind: str) -> Mapping[str, Listing]:
    """List the plug-ins of one kind without importing them.

    Args:
        kind: a key of `PROTOCOLS`.

    Returns:
        Name → listing, sorted by name.
    """
    found = {}
    for point in sorted(_points(kind), key=lambda p: p.name):
        dist = point.dist
        found[point.name] = Listing(
            kind=kind,
            name=point.name,
            path=point.value,
            distribution=dist.name if dist else "?",
            version=dist.version if dist else "?",
        )
    return found


def load(kind: str, name: str, allowed_modules: Sequence[str] = ()) -> type[Any]:
    """Find the class of a plug-in and check its contract.

    Args:
        kind: a key of `PROTOCOLS`.
        name: entry-point name, or ``package.module:Class``.
        allowed_modules: modules that the lab file allows for dotted paths; a package allows what is inside.

    Returns:
        The class.

    Raises:
        PluginError: not found, not allowed, does not import, or does not keep the contract.
    """
    if ":" in name:
        return _checked(kind, name, _import_dotted(name, allowed_modules))
    points = {point.name: point for point in _points(kind)}
    if name not in points:
        near = difflib.get_close_matches(name, points, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(points))}"
        message = f"no plug-in {name!r} of kind {kind}; {hint} ('matloop plugins' lists them)"
        raise PluginError(message)
    try:
        loaded = points[name].load()
    except Exception as error:
        message = f"plug-in {name!r} ({points[name].value}) cannot be imported: {error}"
        raise PluginError(message) from error
    return _checked(kind, name, loaded)


def options_of(plugin: type[Any]) -> type[BaseModel]:
    """Return the class of a plug-in's options."""
    options: type[BaseModel] = plugin.Options
    return options


def build(
    kind: str,
    name: str,
    options: Mapping[str, Any],
    *,
    base: str | None = None,
    allowed_modules: Sequence[str] = (),
    of_lab: bool = True,
) -> Any:
    """Build a plug-in from its name and options.

    Args:
        kind: a key of `PROTOCOLS`.
        name: entry-point name, or dotted path.
        options: as written in the file.
        base: folder that relative paths start from.
        allowed_modules: see `load`.
        of_lab: whether options that start programs are taken; a campaign file's are not.

    Returns:
        The plug-in.

    Raises:
        PluginError: see `load`; or an option is wrong.
    """
    plugin = load(kind, name, allowed_modules)
    try:
        context = {"base": base, "allowed_modules": tuple(allowed_modules), "of_lab": of_lab}
        checked = options_of(plugin).model_validate(dict(options), context=context)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"option {where!r} of plug-in {name!r}: {first['msg']} (seen: {first.get('input')!r})"
        raise PluginError(message) from error
    return plugin(checked)


def conformance(kind: str) -> Callable[..., Sequence[Any]]:
    """Return the contract of one kind as code: a function that checks a plug-in and gives its findings.

    Args:
        kind: a key of `PROTOCOLS` that has such checks.

    Raises:
        PluginError: there are none for this kind.
    """
    points = {point.name: point for point in entry_points(group="matloop.conformance")}
    if kind not in points:
        message = f"there are no checks for plug-ins of kind {kind!r}; there are some for: {', '.join(sorted(points))}"
        raise PluginError(message)
    check: Callable[..., Sequence[Any]] = points[kind].load()
    return check


@cache
def _all_points() -> tuple[EntryPoint, ...]:
    return tuple(point for kind in PROTOCOLS for point in entry_points(group=f"matloop.{kind}"))


def _points(kind: str) -> list[EntryPoint]:
    if kind not in PROTOCOLS:
        message = f"no kind of plug-in {kind!r}; there are: {', '.join(PROTOCOLS)}"
        raise PluginError(message)
    return [point for point in _all_points() if point.group == f"matloop.{kind}"]


def _import_dotted(name: str, allowed_modules: Sequence[str]) -> Any:
    module, _, attribute = name.partition(":")
    inside = any(module == allowed or module.startswith(f"{allowed}.") for allowed in allowed_modules)
    if not inside or not attribute.isidentifier():
        message = (
            f"the class {name!r} is not allowed here; write package.module:Class and list the module under"
            " 'allowed_modules' in lab.yaml"
        )
        raise PluginError(message)
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        message = f"{name!r} cannot be imported: {error}"
        raise PluginError(message) from error
    if getattr(loaded, "__module__", "").split(".")[0] != module.split(".", maxsplit=1)[0]:
        message = f"{name!r} leads to {loaded!r}, which does not belong to that package"
        raise PluginError(message)
    return loaded


def _checked(kind: str, name: str, loaded: Any) -> type[Any]:
    if not isinstance(loaded, type):
        message = f"plug-in {name!r} is {loaded!r}; a class was expected"
        raise PluginError(message)
    contract = PROTOCOLS[kind]
    wanted = [member for member in _methods(contract) if not callable(getattr(loaded, member, None))]
    if wanted:
        message = f"plug-in {name!r} is no {contract.__name__}: it lacks {', '.join(sorted(wanted))}"
        raise PluginError(message)
    options = getattr(loaded, "Options", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        message = f"plug-in {name!r} lacks an inner class Options (orchestrator.protocols.{Options.__name__})"
        raise PluginError(message)
    return loaded


def _methods(contract: type) -> list[str]:
    return [name for name, member in vars(contract).items() if callable(member) and not name.startswith("_")]
