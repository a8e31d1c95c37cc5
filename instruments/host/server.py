"""The HTTP side of the adapter host; what is said is in `wire`."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse

from instruments.host import wire
from instruments.host.journal import Entry, Journal
from instruments.host.station import Progress, Station
from orchestrator.domain import Absent, Finished, JsonObject, Order, Running, Whereabouts
from orchestrator.errors import Fault, InstrumentError, Rejected
from orchestrator.protocols import SafeState

LONGEST_WAIT_S = 20.0
"""Of one long poll; below what proxies cut."""
Next = Callable[[Request], Awaitable[Response]]


def application(stations: Mapping[str, Station], journal: Journal, token: str) -> FastAPI:
    """Build the server.

    Args:
        stations: by name.
        journal: of all of them.
        token: that every request must carry.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        for station in stations.values():
            await station.close()

    app = FastAPI(title="Matloop adapter host", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    expected = f"Bearer {token}".encode()

    async def answered(request: Request, go_on: Next) -> Response:
        try:
            return await go_on(request)
        except InstrumentError as error:
            return _refused(error)
        except Exception as error:  # noqa: BLE001  a driver may raise anything; the client must hear of it
            return _refused(Fault(f"the host failed: {type(error).__name__}: {error}"))

    async def guarded(request: Request, go_on: Next) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            refusal = {"kind": "Rejected", "message": "the token is missing or wrong", "effect": "none"}
            return _json({"error": refusal}, 401)
        if int(request.headers.get("content-length") or 0) > wire.LARGEST:
            return _refused(Rejected(f"a message of more than {wire.LARGEST} bytes is not taken"))
        sent = await request.body()
        return await _sealed(request, sent, await answered(request, go_on))

    app.middleware("http")(guarded)
    app.include_router(_router(stations, journal))
    return app


def _router(stations: Mapping[str, Station], journal: Journal) -> APIRouter:  # noqa: C901  one short function a route
    router = APIRouter(prefix="/v1")

    def at(name: str) -> Station:
        if name not in stations:
            message = f"this host has no instrument {name!r}; it has: {', '.join(stations)}"
            raise Rejected(message)
        return stations[name]

    @router.get("")
    async def names() -> Response:
        return _json({"protocol": wire.PROTOCOL, "instruments": list(stations)})

    @router.get("/{name}")
    async def describe(name: str) -> Response:
        content = wire.description_json(await at(name).describe())
        mixins = ["SafeState"] if isinstance(at(name).instrument, SafeState) else []
        return _json({"description": content, "mixins": mixins, "protocol": wire.PROTOCOL})

    @router.post("/{name}/open")
    async def open_(name: str) -> Response:
        return _json(vars(await at(name).open()))

    @router.get("/{name}/health")
    async def health(name: str) -> Response:
        return _json(vars(await at(name).health()))

    @router.post("/{name}/abort")
    async def abort(name: str, request: Request) -> Response:
        body = await _body(request)
        keys = body.get("keys")
        await at(name).abort(str(body.get("reason", "")), None if keys is None else [str(key) for key in keys])
        return _json({})

    @router.post("/{name}/safe")
    async def make_safe(name: str) -> Response:
        await at(name).make_safe()
        return _json({})

    @router.post("/{name}/beat")
    async def beat(name: str, request: Request) -> Response:
        at(name).beat(float((await _body(request))["ttl_s"]))
        return _json({})

    @router.post("/{name}/orders")
    async def create(name: str, request: Request) -> Response:
        body = await _body(request)
        try:
            order = Order.from_json(body)
        except (KeyError, TypeError, ValueError) as error:
            message = f"this is no order: {type(error).__name__}: {error}"
            raise Rejected(message) from error
        return _job(await at(name).create(order), None)

    @router.post("/{name}/jobs/{job}/start")
    async def start(name: str, job: str) -> Response:
        return _job(await at(name).start(job), None)

    @router.post("/{name}/jobs/{job}/withdraw")
    async def withdraw(name: str, job: str) -> Response:
        return _job(at(name).withdraw(job), None)

    @router.get("/{name}/jobs/{job}")
    async def state(name: str, job: str, after: int = -1, wait: float = 0.0) -> Response:
        return _job(*await at(name).state(job, after=after, wait_s=min(wait, LONGEST_WAIT_S)))

    @router.get("/{name}/keys/{key}")
    async def lookup(name: str, key: str) -> Response:
        return _json(_where(await at(name).lookup(key)))

    @router.post("/{name}/keys/{key}/acknowledge")
    async def acknowledge(name: str, key: str) -> Response:
        journal.acknowledge(at(name).name, key)
        return _json({})

    @router.get("/{name}/attachments/{digest}")
    async def attachment(name: str, digest: str) -> Response:
        path = await asyncio.to_thread(journal.attachment, digest)
        if path is None:
            return _json(
                {"error": {"kind": "BadData", "message": f"no file {digest} at {name}", "effect": "done"}}, 404
            )
        return FileResponse(path, media_type="application/octet-stream")

    return router


async def _sealed(request: Request, sent: bytes, response: Response) -> Response:
    """Put the seal on an answer in JSON; raw files have a hash of their own."""
    if not response.headers.get("content-type", "").startswith("application/json"):
        return response
    stream = getattr(response, "body_iterator", None)
    body = bytes(response.body) if stream is None else b"".join([chunk async for chunk in stream])
    query = f"?{request.url.query}" if request.url.query else ""
    seal = wire.seal(request.method, request.url.path + query, sent, body)
    return Response(body, response.status_code, {wire.SEAL: seal}, "application/json")


async def _body(request: Request) -> dict[str, Any]:
    try:
        content = json.loads(await request.body())
    except ValueError as error:
        message = f"the message is no JSON: {error}"
        raise Rejected(message) from error
    if not isinstance(content, dict):
        message = f"the message is a {type(content).__name__}; an object was expected"
        raise Rejected(message)
    return content


def _job(entry: Entry, progress: Progress | None) -> Response:
    content: JsonObject = {"job": entry.job, "key": entry.key, "state": entry.state}
    content |= {"result": entry.result, "error": entry.error}
    if progress is not None:
        content |= {"change": progress.changes, "fraction": progress.fraction, "text": progress.text}
    return _json(content)


def _where(where: Whereabouts) -> JsonObject:
    if isinstance(where, Absent):
        return {"where": "absent"}
    if isinstance(where, Running):
        return {"where": "running", "handle": where.handle}
    if isinstance(where, Finished):
        return {"where": "finished", "result": where.result.to_json()}
    return {"where": "unsure", "why": where.why}


def _json(content: Any, status: int = 200) -> Response:
    return Response(wire.dump(content), status_code=status, media_type="application/json")


def _refused(error: InstrumentError) -> Response:
    content = wire.error_json(error)
    return _json({"error": content}, wire.STATUS.get(str(content["kind"]), 500))
