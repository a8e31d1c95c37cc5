"""Files → checked configuration, with one readable error where that cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.config.lab import LabConfig
from orchestrator.config.messages import as_config_error
from orchestrator.config.schema import CampaignConfig
from orchestrator.config.source import Source, read_file
from orchestrator.errors import ConfigError

LAB = "lab.yaml"
"""The lab file that is used where it lies beside a campaign file and no other is named."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Loaded:
    """A campaign file as read, with the lab it belongs to.

    Args:
        config: what the file says.
        file: the file, as the user named it.
        base: folder that relative paths in it start from.
        text: its text.
        lab: the instruments of the site; empty without a lab file.
        lab_file: the lab file; empty without one.
        source: places in the campaign file.
        lab_source: places in the lab file.
    """

    config: CampaignConfig
    file: str = ""
    base: str | None = None
    text: str = ""
    lab: LabConfig = field(default_factory=LabConfig)
    lab_file: str = ""
    source: Source = field(default_factory=Source)
    lab_source: Source = field(default_factory=Source)


def load_campaign(path: str | Path, *, lab: str | Path | None = None) -> Loaded:
    """Read a campaign file and its lab file.

    Args:
        path: the campaign file.
        lab: the lab file; default `lab.yaml` beside the campaign file, where there is one.

    Returns:
        Both, as read; `orchestrator.config.check.check` looks into the plug-ins.

    Raises:
        ConfigError: a file cannot be read, or says what it may not say.
    """
    config, source = _load(path, CampaignConfig)
    beside = Path(path).parent / LAB
    lab_path = lab if lab is not None else beside if beside.is_file() else None
    lab_config, lab_source = (LabConfig(), Source()) if lab_path is None else _load_lab(lab_path)
    return Loaded(
        config=config,
        file=str(path),
        base=str(Path(path).parent),
        text=source.text,
        lab=lab_config,
        lab_file="" if lab_path is None else str(lab_path),
        source=source,
        lab_source=lab_source,
    )


def load_lab(path: str | Path) -> LabConfig:
    """Read a lab file.

    Args:
        path: the file.

    Returns:
        The instruments of the site.

    Raises:
        ConfigError: the file cannot be read, or says what it may not say.
    """
    return _load_lab(path)[0]


def _load_lab(path: str | Path) -> tuple[LabConfig, Source]:
    lab, source = _load(path, LabConfig)
    return lab.read_from(str(Path(path).absolute().parent)), source


def _load(path: str | Path, model: type[M]) -> tuple[M, Source]:
    source = read_file(path)
    if not isinstance(source.data, dict):
        what = "empty" if source.data is None else f"a {type(source.data).__name__}"
        message = f"the file is {what}; a mapping (key: value lines) was expected, as in campaigns/README.md"
        raise ConfigError(message, file=source.file, line=1)
    try:
        return model.model_validate(source.data), source
    except ValidationError as error:
        raise as_config_error(error, source, model) from error
