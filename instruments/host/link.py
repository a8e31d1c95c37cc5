"""HTTP as an instrument's line: one connection a request, no repeats, and errors that say what may have happened."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instruments.host import tokens, wire
from orchestrator.errors import Effect, NotConnected, ProtocolDesync, TimedOut

if TYPE_CHECKING:
    import httpx

CONNECT_S = 1.5
"""A dead address must be known as dead within two seconds."""
ANSWER_S = 5.0
CREDENTIALS_WRONG = (401, 403)


def prepare() -> None:
    """Load the HTTP library, which takes a third of a second: when a driver is built, not when its health is asked."""
    import httpx  # noqa: F401, PLC0415  a driver imports without its library


class Link:
    """The way to one server.

    Each request has a connection of its own: on a connection that was kept open, nobody could tell whether the request
    was lost before or after the server read it. Proxies and .netrc of the environment are left out on purpose.

    Args:
        url: of the server.
        headers: of every request.
        ca: certificate to trust, where the server's is not signed by a public authority.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, ca: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = dict(headers or {})
        self._ca = ca
        self._client: httpx.AsyncClient | None = None

    async def ask(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        answer_s: float = ANSWER_S,
        effect: Effect = Effect.NONE,
        files: Any = None,
    ) -> httpx.Response:
        """Send one request, once.

        Args:
            method: of HTTP.
            path: below the server's address.
            content: JSON.
            answer_s: longest silence in seconds.
            effect: of an error after the request may have arrived.
            files: of a form, in place of JSON.

        Returns:
            The response, whatever its status.

        Raises:
            NotConnected: nobody listens; nothing was sent.
            TimedOut: no answer in time.
            ProtocolDesync: the connection broke, or what came is no HTTP.
        """
        import httpx  # noqa: PLC0415  a driver imports without its library

        limits = httpx.Timeout(answer_s, connect=min(CONNECT_S, answer_s))
        body = None if content is None else wire.dump(content)
        headers = {**self._headers, "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            return await self._open().request(
                method, self.url + path, content=body, files=files, headers=headers, timeout=limits
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            message = f"nobody answers at {self.url} ({_words(error)}); start the host there, or correct the address"
            raise NotConnected(message) from error
        except httpx.TimeoutException as error:
            message = f"{self.url} gave no answer to {method} {path} within {answer_s:g} s"
            raise TimedOut(message, effect=effect) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            message = f"the connection to {self.url} broke during {method} {path}: {_words(error)}"
            raise ProtocolDesync(message, effect=effect) from error

    async def close(self) -> None:
        """Give every connection back."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def _open(self) -> httpx.AsyncClient:
        import httpx  # noqa: PLC0415  a driver imports without its library

        if self._client is None:
            # Authorities are loaded only where there is something to trust: that takes a tenth of a second.
            tls = self.url.startswith("https:")
            verify = ssl.create_default_context(cafile=str(self._ca) if self._ca else None) if tls else False
            transport = httpx.AsyncHTTPTransport(
                verify=verify, retries=0, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
            )
            self._client = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)
        return self._client


class HostLink(Link):
    """The way to one instrument of an adapter host.

    Args:
        url: of the instrument: ``http://127.0.0.1:8700/furnace``.
        token: shared secret.
        variable: where a token is looked for, for messages.
        ca: see `Link`.
    """

    def __init__(self, url: str, token: str | None, variable: str = tokens.VARIABLE, ca: Path | None = None) -> None:
        server, _, self.name = url.rstrip("/").rpartition("/")
        super().__init__(server, {"Authorization": f"Bearer {token}"} if token else {}, ca)
        self._variable = variable

    async def say(
        self,
        method: str,
        path: str = "",
        content: Any = None,
        *,
        answer_s: float = ANSWER_S,
        effect: Effect = Effect.NONE,
    ) -> dict[str, Any]:
        """Send one request and return the answer; a refusal is raised as the error that it is.

        Args:
            method: of HTTP.
            path: below the instrument.
            content: JSON.
            answer_s: longest silence in seconds.
            effect: of an error after the request may have arrived.
        """
        where = f"/v1/{self.name}{path}"
        response = await self.ask(method, where, content, answer_s=answer_s, effect=effect)
        if response.status_code not in CREDENTIALS_WRONG:
            expected = wire.seal(method, where, b"" if content is None else wire.dump(content), response.content)
            if response.headers.get(wire.SEAL) != expected:
                message = (
                    f"{method} {where} or its answer was damaged on the way (HTTP {response.status_code}), or no"
                    f" 'matloop host' is behind {self.url}"
                )
                raise ProtocolDesync(message, effect=effect)
        return self.read(response, effect)

    def read(self, response: httpx.Response, effect: Effect) -> dict[str, Any]:
        """Read an answer of the host."""
        if response.status_code in CREDENTIALS_WRONG:
            message = (
                f"the host at {self.url} does not take the token; set ${self._variable} (or the option 'token_file')"
                " to the one that the host was started with"
            )
            raise NotConnected(message, effect=effect)
        try:
            answer = response.json()
        except ValueError as error:
            message = f"{self.url} answered with something that is no JSON (HTTP {response.status_code}); is it a host?"
            raise ProtocolDesync(message, effect=effect) from error
        if isinstance(answer, dict) and "error" in answer and not response.is_success:
            raise wire.error_from(answer["error"])
        if not isinstance(answer, dict) or not response.is_success:
            message = f"{self.url} answered with HTTP {response.status_code}; is 'matloop host' behind this address?"
            raise ProtocolDesync(message, effect=effect)
        return answer


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
