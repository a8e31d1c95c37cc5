"""Begin a campaign from a file, with settings that the form or the command line gives instead of the file's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestrator.campaign import Campaign
from orchestrator.config.amendments import differences
from orchestrator.config.read import Loaded, load_campaign
from orchestrator.config.schema import CampaignConfig
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.record.store import CampaignStore


def loaded_with(
    file: str | Path,
    *,
    lab: str | Path | None = None,
    name: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read a campaign file and change single settings.

    Args:
        file: the campaign file.
        lab: the lab file; default `lab.yaml` beside the campaign file.
        name: instead of the file's.
        changes: top-level keys → values; a mapping is merged into the file's mapping; None changes nothing.

    Returns:
        The changed configuration. Paths in it are absolute, so that the campaign can be resumed from any folder.

    Raises:
        ConfigError: the file is wrong, or a change is.
    """
    loaded = load_campaign(file, lab=lab)
    content = loaded.config.snapshot()
    if name:
        content["name"] = name
    for key, value in (changes or {}).items():
        if isinstance(value, Mapping):
            content[key] = {**content[key], **{k: v for k, v in value.items() if v is not None}}
        elif value is not None:
            content[key] = value
    try:
        config = CampaignConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = f"{first['msg']} (seen: {first.get('input')!r}, given instead of what the file says)"
        raise ConfigError(message, file=str(file), key=key) from error
    place = Path(file).resolve()
    lab_file = str(Path(loaded.lab_file).resolve()) if loaded.lab_file else ""
    return replace(loaded, config=config, file=str(place), base=str(place.parent), lab_file=lab_file)


def refuse_by_hand(config: CampaignConfig) -> None:
    """Refuse to run what no instrument measures.

    Raises:
        ConfigError: the campaign has no procedure.
    """
    if not config.procedure:
        message = (
            f"campaign {config.name!r} has no procedure: people measure it; 'matloop ask' says what is next, and"
            " 'matloop tell' takes the result"
        )
        raise ConfigError(message, key="procedure")


def begin_or_resume(loaded: Loaded, store: CampaignStore, *, actor: str) -> Campaign:
    """Begin a campaign, or open it where one of that name with the same settings exists.

    So the same form sent twice, or a retry of a flow run, goes on instead of beginning a second campaign.

    Raises:
        ConfigError: one of that name exists and runs something else.
    """
    name = loaded.config.name
    if name not in {info.name for info in store.campaigns()}:
        return Campaign.begin(loaded, store=store, actor=actor)
    campaign = Campaign.open(name, store=store)
    changed = differences(campaign.config, loaded.config)
    if changed:
        message = (
            f"campaign {name!r} exists, and what is asked for differs from what it runs:\n  "
            + "\n  ".join(changed)
            + "\ngive another name to begin a new campaign, or leave the other fields as they were to go on with it"
        )
        raise ConfigError(message)
    return campaign
