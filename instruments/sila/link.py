"""The link to a SiLA 2 server: channel security, and the library's errors in our words.

The client is `unitelabs-sila` (MIT), because it takes a deadline for each call; the reference client blocks for ever on
a server that froze (measured).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from instruments.self_described.driver import CONNECT_S, MEANINGS, imported, is_here
from instruments.self_described.offers import OfferOptions
from orchestrator.domain import Identity
from orchestrator.errors import (
    BadData,
    Busy,
    Effect,
    Fault,
    InstrumentError,
    NotConnected,
    ProtocolDesync,
    Rejected,
    TimedOut,
)
from orchestrator.protocols import InputPath

if TYPE_CHECKING:
    from sila.client import Client

INSTALL = "SiLA 2 needs the library unitelabs-sila; install it with: pip install 'matloop[sila]'"


class SilaOptions(OfferOptions):
    """Where the server is, and what of it is used."""

    host: str = Field(min_length=1, description="name or address of the server")
    port: int = Field(ge=1, le=65535)
    tls: bool = Field(default=True, description="false is allowed on this computer, elsewhere with 'insecure: true'")
    insecure: bool = Field(default=False, description="allow a link that anybody on the network can read and change")
    root_certificates: InputPath | None = Field(
        default=None, description="PEM file of what is trusted; for a self-signed server, its own certificate"
    )
    certificate: InputPath | None = Field(default=None, description="PEM file: ours, where the server wants to know")
    private_key: InputPath | None = Field(default=None, description="PEM file of its key; keep it at mode 0600")
    tls_name: str = Field(default="", description="name in the server's certificate, where it is not the host's")
    feature: str = Field(default="", description="the one feature to use; default: all that are not the standard's")

    @model_validator(mode="after")
    def _secured(self) -> Self:
        if not self.tls and not self.insecure and not is_here(self.host):
            message = (
                f"a link to {self.host} without TLS can be read and changed by anybody on the network; set"
                " 'tls: true' (with 'root_certificates' for a self-signed server), or say 'insecure: true'"
            )
            raise ValueError(message)
        if (self.certificate is None) != (self.private_key is None):
            message = "'certificate' and 'private_key' belong together; give both or none"
            raise ValueError(message)
        return self


@dataclass(frozen=True)
class Where:
    """How a server is reached.

    Args:
        host: of the server.
        port: of the server.
        tls: whether the channel is encrypted.
        root_certificates: PEM file of what is trusted.
        certificate: PEM file of ours.
        private_key: PEM file of its key.
        tls_name: name in the server's certificate, where it is not the host's.
    """

    host: str
    port: int
    tls: bool = True
    root_certificates: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    tls_name: str = ""

    @property
    def address(self) -> str:
        """The address, as `matloop lab scan` takes it."""
        return f"sila://{self.host}:{self.port}"

    def client(self, call_s: float) -> Client:
        """Build a client that is not open yet.

        Args:
            call_s: time-out of each call, in seconds.

        Raises:
            NotConnected: a certificate cannot be read.
        """
        from sila.client import Client, ClientConfig  # noqa: PLC0415  optional, and loaded by now

        # The library's retries are for reads; whether a start was carried out before it was lost, it cannot know.
        options: dict[str, Any] = {"grpc.enable_retries": 0}
        if self.tls_name:
            options["grpc.ssl_target_name_override"] = self.tls_name
        try:
            config = ClientConfig(
                hostname=self.host,
                port=self.port,
                tls=self.tls,
                root_certificates=_bytes(self.root_certificates),
                certificate_chain=_bytes(self.certificate),
                private_key=_bytes(self.private_key),
                options=options,  # type: ignore[arg-type]  # a TypedDict of gRPC's hundred options
                default_timeout=call_s * 1000,
            )
        except OSError as error:
            message = (
                f"a certificate cannot be read: {error}; look at 'root_certificates', 'certificate', 'private_key'"
            )
            raise NotConnected(message) from error
        return Client(config)


async def linked(where: Where, call_s: float) -> Client:
    """Open a client; the server's features are read on the way.

    Args:
        where: the server is.
        call_s: time-out of each call, in seconds.

    Returns:
        The open client.

    Raises:
        PluginError: the library is not installed.
        NotConnected: nothing that speaks SiLA 2 answers there.
    """
    await imported("sila.client", INSTALL)
    from sila.client import SiLAError  # noqa: PLC0415  optional, and loaded by now
    from sila.framework.constraints.schema import Schema  # noqa: PLC0415  as above

    # A feature may name the schema of a text by URL. The library fetches it while it reads the feature: a request that
    # the device chooses, from our computer; and building one validator holds up the event loop for 0.1 s (measured).
    # Only numbers and choices are used here, so nothing needs one.
    Schema.get_validator = _no_schema  # type: ignore[method-assign, assignment]

    client = where.client(call_s)
    try:
        await client.open(timeout=CONNECT_S * 1000)
    except (SiLAError, OSError) as error:
        kind = "TLS" if where.tls else "a plain channel"
        message = (
            f"no SiLA 2 server answers at {where.host}:{where.port} over {kind}: {error}; look whether it is switched"
            " on, whether it speaks TLS, and whether its certificate is trusted"
        )
        raise NotConnected(message) from error
    return client


async def identity_of(client: Client) -> Identity:
    """Ask a server who it is."""
    return Identity(
        name=str(await client.get_server_name()),
        serial=str(await client.get_server_uuid()),
        firmware=str(await client.get_server_version()),
    )


@contextmanager
def our_errors(
    meanings: Mapping[str, str], doing: str, *, lost: Effect = Effect.NONE, garbled: Effect = Effect.DONE
) -> Iterator[None]:
    """Turn the library's errors into ours.

    Args:
        meanings: what the device's own errors mean, by name.
        doing: what is tried, for the message.
        lost: what may have happened where no answer came.
        garbled: what may have happened where an answer cannot be read; such an answer says nothing of how the work is.
    """
    from sila.client import (  # noqa: PLC0415  optional, and loaded by now
        CommandExecutionNotAccepted,
        ConversionError,
        DecodeError,
        DefinedExecutionError,
        SiLAConnectionError,
        SiLAError,
        SiLATimeoutError,
        ValidationError,
    )

    try:
        yield
    except InstrumentError:
        raise
    except CommandExecutionNotAccepted as error:
        message = f"{doing}: the server does not take it now: {error.message}"
        raise Busy(message) from error
    except ValidationError as error:
        message = f"{doing}: the server refuses a value: {error.message}"
        raise Rejected(message) from error
    except DefinedExecutionError as error:
        raise _declared(error, meanings, doing) from error
    except SiLATimeoutError as error:
        message = f"{doing}: no answer in time: {error.message}"
        raise TimedOut(message, effect=lost) from error
    except SiLAConnectionError as error:
        message = f"{doing}: the link is lost: {error.message}"
        raise NotConnected(message, effect=lost) from error
    except SiLAError as error:
        message = f"{doing}: {type(error).__name__}: {error.message}"
        raise Fault(message) from error
    except (ConversionError, DecodeError) as error:
        message = f"{doing}: the answer is not what the feature declares: {error}"
        if garbled is Effect.DONE:
            raise BadData(message) from error
        raise ProtocolDesync(message, effect=garbled) from error


def _declared(error: Any, meanings: Mapping[str, str], doing: str) -> InstrumentError:
    try:
        name = str(error.fully_qualified_identifier).rsplit("/", maxsplit=1)[-1]
    except RuntimeError:
        name = error.identifier
    meaning = meanings.get(name)
    if meaning is None:
        hint = f"say what it means in the options: errors: {{{name}: interlocked}} (or rejected, busy, bad_data, …)"
        return Fault(f"{doing}: the device reports {name}: {error.message}; {hint}")
    return MEANINGS[meaning](f"{doing}: the device reports {name}: {error.message}")


def _no_schema(_: Any) -> Callable[[str], None]:
    return lambda _text: None


def _bytes(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None
