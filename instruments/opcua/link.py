"""The link to an OPC UA server: security, and status codes in our words. The client is `asyncua` (LGPL-3, an extra)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlparse

from pydantic import Field, model_validator

from instruments.self_described.driver import CONNECT_S, MEANINGS, imported, is_here, within
from instruments.self_described.offers import OfferOptions
from orchestrator.errors import (
    Busy,
    Effect,
    Fault,
    InstrumentError,
    NotConnected,
    Rejected,
    TimedOut,
)
from orchestrator.protocols import InputPath

if TYPE_CHECKING:
    from asyncua import Client

INSTALL = "OPC UA needs the library asyncua; install it with: pip install 'matloop[opcua]'"
SESSION_MS = 60_000
"""A server gives the session of a program that died back after this."""
Policy = Literal["None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"]
REFUSED = frozenset(
    {
        "BadOutOfRange",
        "BadInvalidArgument",
        "BadTypeMismatch",
        "BadArgumentsMissing",
        "BadTooManyArguments",
        "BadNotWritable",
        "BadUserAccessDenied",
        "BadNotExecutable",
        "BadNotFound",
        "BadMethodInvalid",
    }
)
OCCUPIED = frozenset({"BadInvalidState", "BadResourceUnavailable", "BadTooManyOperations", "BadRequestNotAllowed"})
SILENT = frozenset({"BadTimeout", "BadRequestTimeout"})
GONE = frozenset(
    {
        "BadConnectionClosed",
        "BadSecureChannelClosed",
        "BadSecureChannelIdInvalid",
        "BadSessionClosed",
        "BadSessionIdInvalid",
        "BadShutdown",
        "BadServerHalted",
        "BadNotConnected",
        "BadNoCommunication",
        "BadCommunicationError",
    }
)


class OpcUaOptions(OfferOptions):
    """Where the server is, and what of it is used."""

    endpoint: str = Field(pattern=r"^opc\.tcp://[^\s/]+", description="such as opc.tcp://192.168.1.20:4840")
    unit: str = Field(default="", description="path of browse names below Objects, or a node id; as it was scanned")
    user_env: str = Field(default="", description="environment variable that holds the user's name")
    password_env: str = Field(default="", description="environment variable that holds the password")
    security: Policy = "None"
    mode: Literal["Sign", "SignAndEncrypt"] = "SignAndEncrypt"
    certificate: InputPath | None = Field(default=None, description="our application's certificate, DER or PEM")
    private_key: InputPath | None = Field(default=None, description="its key; keep it at mode 0600")
    server_certificate: InputPath | None = None
    insecure: bool = Field(default=False, description="allow a link that anybody on the network can read and change")
    progress: str = Field(default="", description="value that runs up to its upper bound while the device works")
    start_s: float = Field(default=1.0, ge=0, description="how long 'state' may take to show that the work began")
    freshness: Literal["order", "any"] = Field(
        default="order", description="'any' where the device stamps a value only when it changes"
    )

    @model_validator(mode="after")
    def _secured(self) -> Self:
        host = urlparse(self.endpoint).hostname or ""
        if self.security == "None" and not self.insecure and not is_here(host):
            message = (
                f"a link to {host} without security can be read and changed by anybody on the network; set 'security'"
                " (with 'certificate' and 'private_key'), or say 'insecure: true'"
            )
            raise ValueError(message)
        if self.security != "None" and (self.certificate is None or self.private_key is None):
            message = f"security {self.security} needs 'certificate' and 'private_key'"
            raise ValueError(message)
        return self


@dataclass(frozen=True)
class Where:
    """How a server is reached.

    Args:
        endpoint: its address.
        user_env: environment variable that holds the user's name.
        password_env: environment variable that holds the password.
        security: policy.
        mode: of the policy.
        certificate: ours.
        private_key: its key.
        server_certificate: the server's.
    """

    endpoint: str
    user_env: str = ""
    password_env: str = ""
    security: str = "None"
    mode: str = "SignAndEncrypt"
    certificate: Path | None = None
    private_key: Path | None = None
    server_certificate: Path | None = None


async def linked(where: Where, call_s: float) -> Client:
    """Open a session.

    Args:
        where: the server is.
        call_s: time-out of each call, in seconds.

    Returns:
        The connected client; it does not reconnect by itself, since nobody could say what was lost.

    Raises:
        PluginError: the library is not installed.
        NotConnected: no server answers there, or it lets nobody in.
    """
    if where.security != "None" and (where.certificate is None or where.private_key is None):
        message = f"security {where.security} needs a certificate and its private key"
        raise NotConnected(message)
    await imported("asyncua", INSTALL)
    from asyncua import Client, ua  # noqa: PLC0415  optional, and loaded by now

    client = Client(where.endpoint, timeout=call_s)
    client.session_timeout = SESSION_MS
    try:
        if where.user_env:
            client.set_user(_secret(where.user_env))
            client.set_password(_secret(where.password_env))
        async with within(CONNECT_S):
            if where.security != "None":
                parts = (where.security, where.mode, where.certificate, where.private_key, where.server_certificate)
                await client.set_security_string(",".join(str(part) for part in parts if part is not None))
            await client.connect()
    except (OSError, TimeoutError, ua.UaError) as error:
        with suppress(Exception):
            client.disconnect_socket()
        seen = str(error) or type(error).__name__
        message = (
            f"no OPC UA session at {where.endpoint}: {seen}; look whether the server is switched on, whether the"
            " security policy is one of its own, and whether it knows the user"
        )
        raise NotConnected(message) from error
    return client


@contextmanager
def our_errors(meanings: Mapping[str, str], doing: str, *, lost: Effect = Effect.NONE) -> Iterator[None]:
    """Turn status codes and the library's errors into ours.

    Args:
        meanings: what the device's status codes mean, by name; they come before the usual meaning.
        doing: what is tried, for the message.
        lost: what may have happened where no answer came.
    """
    from asyncua import ua  # noqa: PLC0415  optional, and loaded by now

    try:
        yield
    except InstrumentError:
        raise
    except ua.UaStatusCodeError as error:
        raise _by_code(error, meanings, doing, lost) from error
    except TimeoutError as error:
        message = f"{doing}: no answer in time"
        raise TimedOut(message, effect=lost) from error
    except (OSError, ua.UaError, asyncio.IncompleteReadError) as error:
        message = f"{doing}: the link is lost: {error or type(error).__name__}"
        raise NotConnected(message, effect=lost) from error


def name_of(status: int) -> str:
    """Return the name of a status code, such as ``BadOutOfRange``."""
    from asyncua.ua.status_codes import get_name_and_doc  # noqa: PLC0415  optional, and loaded by now

    return str(get_name_and_doc(status)[0])


def _by_code(error: Exception, meanings: Mapping[str, str], doing: str, lost: Effect) -> InstrumentError:
    code = int(getattr(error, "code", 0))
    name = name_of(code)
    message = f"{doing}: the server answers {name}: {error}"
    if name in meanings:
        return MEANINGS[meanings[name]](message)
    if name in REFUSED:
        return Rejected(message)
    if name in OCCUPIED:
        return Busy(message)
    if name in SILENT:
        return TimedOut(message, effect=lost)
    if name in GONE:
        return NotConnected(message, effect=lost)
    hint = f"say what it means in the options: errors: {{{name}: interlocked}} (or rejected, busy, bad_data, …)"
    return Fault(f"{message}; {hint}")


def _secret(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        message = f"the environment variable {variable!r} is not set; it holds the name or password of the OPC UA user"
        raise NotConnected(message)
    return value
