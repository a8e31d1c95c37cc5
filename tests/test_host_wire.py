"""The wire to the adapter host: encrypted where it leaves the computer, and a damaged message is seen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from instruments.conformance.orders import QuietEvents
from instruments.host import tokens
from instruments.host.remote import Remote, RemoteOptions
from orchestrator.domain import Quantity, Unsure
from orchestrator.errors import Effect, InstrumentError, NotConnected, ProtocolDesync
from tests.test_host import ORDER, TOKEN, Home, remote


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Keep hosts in a folder of their own, with a token in the environment, and end them."""
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path))
    monkeypatch.setenv(tokens.VARIABLE, TOKEN)
    home = Home(tmp_path)
    yield home
    for server in home.servers:
        server.kill()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a key and a certificate for 127.0.0.1."""
    made = (folder / "key.pem", folder / "cert.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "matloop test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    made[0].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    made[1].write_bytes(signed.public_bytes(pem))
    return made


async def test_tls_is_trusted_by_its_certificate_alone(home: Home) -> None:
    """With the certificate the link is encrypted and works; without it nothing is sent; plain HTTP finds no host."""
    key, cert = certificate(home.folder)
    server = home.host("Oven", "--bind", "0.0.0.0", "--key", str(key), "--cert", str(cert))  # noqa: S104  with TLS
    url = f"https://127.0.0.1:{server.port}/oven"
    driver = Remote(RemoteOptions(url=url, ca=cert))
    assert (await driver.run(ORDER, QuietEvents())).readings[0].value == 50.0
    await driver.close()
    with pytest.raises(NotConnected, match="CERTIFICATE_VERIFY_FAILED"):
        await Remote(RemoteOptions(url=url)).open()
    with pytest.raises(InstrumentError) as plain:
        await remote(server).open()
    assert plain.value.effect is Effect.NONE


class Flipper:
    """A wire that changes one digit by one bit, once.

    Args:
        port: of the host.
        side: ``to`` the host or ``from`` it.
        good: bytes that are looked for.
        bad: what becomes of them.
    """

    def __init__(self, port: int, side: str, good: bytes, bad: bytes) -> None:
        self.target = port
        self.change = {side: (good, bad)}
        self.port = 0
        self.flips = 0
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        far, to_far = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            await asyncio.gather(self._pass(reader, to_far, "to"), self._pass(far, writer, "from"))
        except asyncio.CancelledError:
            pass  # the wire closes; a cancelled handler would be reported as a failure of the stream
        finally:
            for end in (writer, to_far):
                end.close()
            for end in (writer, to_far):
                with suppress(OSError):
                    await end.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, side: str) -> None:
        good, bad = self.change.get(side, (b"", b""))
        while chunk := await reader.read(65536):
            if good and good in chunk and not self.flips:
                self.flips += 1
                chunk = chunk.replace(good, bad, 1)
            writer.write(chunk)
            await writer.drain()
        writer.close()


async def test_a_flipped_bit_is_no_result(home: Home) -> None:
    """A digit that changes in an answer is seen and asked for again; one in an order ends it before anything starts."""
    server = home.host()
    async with Flipper(server.port, "from", b'"value": 50.0', b'"value": 51.0') as wire_:
        driver = remote(wire_.port)
        assert (await driver.run(ORDER, QuietEvents())).readings[0].value == 50.0
        assert wire_.flips == 1
        await driver.close()
    async with Flipper(server.port, "to", b"[600.0,", b"[601.0,") as wire_:
        driver = remote(wire_.port)
        hotter = replace(ORDER, key="key-2", settings={"temperature": Quantity(600.0, "degC")})
        with pytest.raises(ProtocolDesync, match="damaged") as damaged:
            await driver.run(hotter, QuietEvents())
        assert damaged.value.effect is Effect.NONE
        assert wire_.flips == 1
        assert home.marked() == ["key-1"]
        assert (await driver.run(hotter, QuietEvents())).readings[0].value == 60.0
        await driver.close()
    async with Flipper(server.port, "to", b"/keys/key-1", b"/keys/key-0") as wire_:
        driver = remote(wire_.port)
        assert isinstance(await driver.lookup("key-1", None), Unsure)
        await driver.close()
    assert home.marked() == ["key-1", "key-2"]
