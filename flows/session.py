"""What the commands share: who acts, which campaign database, which campaign."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from orchestrator.campaign import Campaign
    from orchestrator.record.store import CampaignStore

Command = TypeVar("Command", bound=Callable[..., Any])
CAMPAIGN_VARIABLE = "MATLOOP_CAMPAIGN"
STORE_VARIABLE = "MATLOOP_STORE"


def store_option(command: Command) -> Command:
    """Add the option ``--store``."""
    return click.option(
        "--store",
        envvar=STORE_VARIABLE,
        metavar="PATH|URL",
        help="Campaign database: a file for SQLite, or postgresql+psycopg://USER@HOST/NAME. Default: the file"
        " campaigns.db in Matloop's data folder.",
    )(command)


def lab_option(command: Command) -> Command:
    """Add the option ``--lab``."""
    return click.option(
        "--lab",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Lab file with the instruments of the site; default: lab.yaml beside the campaign file.",
    )(command)


def who_option(command: Command) -> Command:
    """Add the option ``--who``."""
    return click.option("--who", help="Your name, for the record; default: user@computer.")(command)


def actor() -> str:
    """Name the user and the computer, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@contextmanager
def opened(where: str | None, *, create: bool = False) -> Iterator[CampaignStore]:
    """Open the campaign database, and close it at the end.

    Args:
        where: as given with ``--store``.
        create: make the database if there is none.

    Yields:
        The store.
    """
    from orchestrator.record.store import CampaignStore  # noqa: PLC0415  SQLAlchemy takes most of a second

    store = CampaignStore.open(where, create=create)
    try:
        yield store
    finally:
        store.close()


def is_file(text: str) -> bool:
    """Say whether an argument means a campaign file rather than a campaign's name."""
    return text.endswith((".yaml", ".yml")) or "/" in text


def resolve(store: CampaignStore, text: str | None) -> str:
    """Find the campaign that is meant.

    Args:
        store: the campaign database.
        text: a name, a campaign file, or None where the user gave nothing.

    Returns:
        The campaign's name. Without a text: the one that the variable MATLOOP_CAMPAIGN names, or the only one.

    Raises:
        StoreError: it is not clear which one is meant.
    """
    if text is not None and is_file(text):
        from orchestrator.config.read import load_campaign  # noqa: PLC0415  not needed where a name is given

        return load_campaign(text).config.name
    text = text or os.environ.get(CAMPAIGN_VARIABLE)
    if text:
        return text
    names = [info.name for info in store.campaigns()]
    if len(names) == 1:
        return names[0]
    if not names:
        message = "there is no campaign in this database yet; begin one with 'matloop run FILE'"
        raise StoreError(message)
    message = f"which campaign? There are: {', '.join(sorted(names))}; name one, or set {CAMPAIGN_VARIABLE}"
    raise StoreError(message)


def campaign_of(store: CampaignStore, text: str | None, lab: Path | None = None) -> Campaign:
    """Open the campaign that is meant; a file must say what the campaign runs."""
    from orchestrator.campaign import Campaign  # noqa: PLC0415  NumPy and pydantic are not needed by --help

    file = text if text is not None and is_file(text) else None
    return Campaign.open(resolve(store, text), store=store, file=file, lab=lab)


def split_target(arguments: tuple[str, ...], what: re.Pattern[str]) -> tuple[str | None, tuple[str, ...]]:
    """Take a leading campaign off the arguments, where there is one.

    Args:
        arguments: as typed.
        what: pattern of the first argument where no campaign was named, such as a trial's number.

    Returns:
        Campaign or None, and the other arguments.
    """
    if arguments and what.fullmatch(arguments[0]) is None:
        return arguments[0], arguments[1:]
    return None, arguments
