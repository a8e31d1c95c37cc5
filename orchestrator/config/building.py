"""Plug-ins built from a campaign file, so that every error stands at its line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator import plugins
from orchestrator.config.messages import as_config_error
from orchestrator.config.source import Path_, Source
from orchestrator.domain import Description
from orchestrator.errors import ConfigError, MatloopError
from orchestrator.protocols import Instrument

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Builder:
    """Builds the plug-ins of one file.

    Args:
        source: the file, for lines.
        base: folder that relative paths start from.
        allowed_modules: modules that dotted names may lead to.
        of_lab: the file is the lab's: options that start programs are taken from no other.
    """

    source: Source
    base: str | None
    allowed_modules: tuple[str, ...]
    of_lab: bool = False

    def build(self, kind: str, use: str, options: Mapping[str, Any], at: Path_) -> Any:
        """Build a plug-in.

        Args:
            kind: a key of `orchestrator.protocols.PROTOCOLS`.
            use: its name.
            options: its options, as written.
            at: path of the mapping that holds ``use`` and ``options``.

        Returns:
            The plug-in.

        Raises:
            ConfigError: it is not found, or refuses an option.
        """
        try:
            plugin = plugins.load(kind, use, self.allowed_modules)
        except MatloopError as error:
            raise self.source.error(str(error), (*at, "use")) from error
        checked = self.options(plugins.options_of(plugin), options, at)
        return self.ask(lambda: plugin(checked), options, at)

    def options(self, model: type[M], options: Mapping[str, Any], at: Path_) -> M:
        """Check options by their class.

        Args:
            model: the class.
            options: as written.
            at: path of the mapping that holds ``options``.

        Returns:
            The options.

        Raises:
            ConfigError: an option is wrong.
        """
        try:
            return model.model_validate(
                dict(options),
                context={"base": self.base, "allowed_modules": self.allowed_modules, "of_lab": self.of_lab},
            )
        except ValidationError as error:
            raise as_config_error(error, self.source, model, (*at, "options")) from error
        except MatloopError as error:  # pydantic keeps the place of a ValueError only
            raise self.source.error(str(error), self._blamed(options, str(error), at)) from error

    def ask(self, question: Callable[[], T], options: Mapping[str, Any], at: Path_) -> T:
        """Ask a plug-in something; what it refuses is an error of the file.

        Args:
            question: what to call.
            options: the plug-in's options, as written.
            at: path of the mapping that holds them.

        Returns:
            The answer.

        Raises:
            ConfigError: the plug-in refused.
        """
        try:
            return question()
        except ConfigError:
            raise
        except (MatloopError, OSError, ValueError) as error:
            raise self.source.error(str(error), self._blamed(options, str(error), at)) from error

    def describe(self, instrument: Instrument, options: Mapping[str, Any], at: Path_) -> Description:
        """Ask an instrument what it can do; no device is touched."""

        def ask() -> Description:
            return asyncio.run(instrument.describe())

        def question() -> Description:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return ask()
            with ThreadPoolExecutor(1) as pool:  # a loop runs on this thread; the answer needs one of its own
                return pool.submit(ask).result()

        return self.ask(question, options, at)

    def _blamed(self, options: Mapping[str, Any], message: str, at: Path_) -> Path_:
        """Find the option that an error speaks of: the one whose text it repeats, or whose name it gives."""
        inside = (*at, "options")
        for path, text in _texts(options, inside):
            if len(text) > 1 and text in message:
                return path
        for path in _keys(options, inside):
            words = re.escape(str(path[-1])).replace("_", "[_ ]")
            if re.search(rf"\b{words}\b", message):
                return path
        files = [path for path in _keys(options, inside) if path[-1] in {"path", "file"}]
        return files[0] if files else (*at, "use")


def _keys(content: Any, path: Path_) -> Iterator[Path_]:
    """List the keys among options, in the order of the file."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield (*path, key)
            yield from _keys(value, (*path, key))
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            yield from _keys(value, (*path, i))


def _texts(content: Any, path: Path_) -> list[tuple[Path_, str]]:
    """List the texts among options, longest first."""
    found: list[tuple[Path_, str]] = []
    if isinstance(content, str):
        found.append((path, content))
    elif isinstance(content, Mapping):
        found.extend(item for key, value in content.items() for item in _texts(value, (*path, key)))
    elif isinstance(content, (list, tuple)):
        found.extend(item for i, value in enumerate(content) for item in _texts(value, (*path, i)))
    return sorted(found, key=lambda item: -len(item[1]))
