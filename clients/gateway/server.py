"""The gateway over HTTP: ``POST /graphql``, with limits on what a request may hold, take and cost.

Programs ask it, not browsers: a request that names the page it comes from (``Origin``) is refused, so that a web page
that somebody opens cannot use a gateway on their machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from aiohttp import BodyPartReader, web

from clients.errors import ClientError, one_line
from clients.gateway.schema import SDL, Gateway, QueryError

MAX_PARTS = 12
"""Of a multipart request: operations, map, and the files."""
MAX_FORM_BYTES = 65_536
"""Of a multipart request's parts that are not files."""
BODY_TIMEOUT_S = 30.0
DRAIN_S = 10.0
"""For the requests under way when the gateway is stopped."""
_JSON = "application/json"

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the gateway takes."""

    max_body_bytes: int
    max_requests: int
    """At a time; what comes beyond them is refused, not queued."""
    body_timeout_s: float = BODY_TIMEOUT_S
    """For the whole body of a request to come."""


class GatewayServer:
    """Carries requests to a gateway."""

    def __init__(self, gateway: Gateway, limits: Limits, is_ready: Callable[[], bool]) -> None:
        """Prepare; ``is_ready`` may block, and tells whether the detector's server would answer."""
        self._gateway = gateway
        self._limits = limits
        self._is_ready = is_ready
        self._running = 0

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[str]:
        """Listen while the block runs; gives the address. Raises ClientError where that is impossible."""
        app = web.Application(middlewares=[_errors_as_json], client_max_size=self._limits.max_body_bytes)
        app.router.add_post("/graphql", self._graphql)
        app.router.add_get("/schema", _schema)
        app.router.add_get("/health/live", _live)
        app.router.add_get("/health/ready", self._ready)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_S)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except (OSError, UnicodeError) as error:
                # UnicodeError: a name that no host can have.
                reason = getattr(error, "strerror", None) or one_line(error)
                raise ClientError(
                    f"cannot listen on port {port} of {host} ({reason}): choose another with --port or --host"
                ) from error
            address = runner.addresses[0]
            shown = f"[{address[0]}]" if ":" in address[0] else address[0]
            yield f"http://{shown}:{address[1]}"
        finally:
            await runner.cleanup()

    async def _ready(self, request: web.Request) -> web.Response:
        try:
            ready = await asyncio.to_thread(self._is_ready)
        except ClientError as error:
            return _error(503, one_line(error))
        if not ready:
            return _error(503, "the model's server does not answer, or the model is not loaded")
        return web.json_response({"status": "ready"})

    async def _graphql(self, request: web.Request) -> web.Response:
        if self._running >= self._limits.max_requests:
            refusal = _error(503, f"{self._limits.max_requests} requests are under way: try again later")
            refusal.headers["Retry-After"] = "1"
            return refusal
        self._running += 1
        try:
            asked = await self._read(request)
            return web.json_response(
                await self._gateway.answer(asked["query"], asked.get("variables"), asked.get("operationName"))
            )
        except QueryError as error:
            return web.json_response({"errors": error.errors}, status=400)
        finally:
            self._running -= 1

    async def _read(self, request: web.Request) -> dict[str, Any]:
        """What is asked, checked; raises HTTPException."""
        if "Origin" in request.headers:
            raise web.HTTPForbidden(reason="requests of web pages are not answered")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise web.HTTPUnsupportedMediaType(reason="expected a body without Content-Encoding")
        if request.content_length is None:
            raise web.HTTPLengthRequired(reason="expected the header Content-Length")
        if request.content_length > self._limits.max_body_bytes:
            raise _too_large(self._limits.max_body_bytes, request.content_length)
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                if request.content_type == "multipart/form-data":
                    return await _read_multipart(request)
                if request.content_type != _JSON:
                    raise web.HTTPUnsupportedMediaType(reason=f"expected Content-Type {_JSON} or multipart/form-data")
                return _checked(_parsed(await request.read(), "the body"))
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(
                reason=f"the body did not come within {self._limits.body_timeout_s:g} s"
            ) from error


async def _read_multipart(request: web.Request) -> dict[str, Any]:
    """A request by the GraphQL multipart request specification, its files put where its map says."""
    try:
        parts = await _parts(request)
    except web.HTTPException:
        raise
    except Exception as error:
        # aiohttp's reader raises half a dozen kinds of exception for what is no multipart body.
        raise web.HTTPBadRequest(
            reason=f"expected a multipart body, got something else ({type(error).__name__})"
        ) from error
    if not {"operations", "map"} <= parts.keys():
        raise web.HTTPBadRequest(reason="expected the fields operations, map and the files, in this order")
    asked = _checked(_parsed(parts.pop("operations"), "operations"))
    places = _parsed(parts.pop("map"), "map")
    if not isinstance(places, dict) or set(places) != set(parts):
        raise web.HTTPBadRequest(reason="expected map to name each file once, and no other")
    variables = asked.get("variables") or {}
    for name, paths in places.items():
        for path in paths if isinstance(paths, list) else [None]:
            root, _, variable = path.partition(".") if isinstance(path, str) else ("", "", "")
            if root != "variables" or variables.get(variable, "") is not None:
                raise web.HTTPBadRequest(reason="expected map to name variables that are null, as in variables.image")
            variables[variable] = parts[name]
    return asked


async def _parts(request: web.Request) -> dict[str, bytes]:
    reader = await request.multipart()
    parts: dict[str, bytes] = {}
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader) or not part.name or part.name in parts or len(parts) == MAX_PARTS:
            raise web.HTTPBadRequest(reason=f"expected at most {MAX_PARTS} fields, each with a name of its own")
        content = bytes(await part.read())
        if part.filename is None and part.name in {"operations", "map"} and len(content) > MAX_FORM_BYTES:
            raise _too_large(MAX_FORM_BYTES, len(content))
        parts[part.name] = content
    return parts


def _parsed(text: bytes, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(reason=f"expected JSON in {what}: {one_line(error)[:200]}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _checked(asked: Any) -> dict[str, Any]:
    if (
        not isinstance(asked, dict)
        or not isinstance(asked.get("query"), str)
        or not isinstance(asked.get("variables"), dict | None)
        or not isinstance(asked.get("operationName"), str | None)
    ):
        raise web.HTTPBadRequest(
            reason='expected one JSON object: "query" a text, "variables" an object, "operationName" a text'
        )
    return asked


async def _schema(request: web.Request) -> web.Response:
    return web.Response(text=SDL.strip() + "\n")


async def _live(request: web.Request) -> web.Response:
    return web.json_response({"status": "live"})


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal in the form in which GraphQL has errors."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        response = _error(error.status, error.reason)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


def _too_large(limit: int, size: int) -> web.HTTPException:
    error = web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=size)
    error.set_status(error.status, f"expected at most {limit} bytes, got {size}")
    return error


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"errors": [{"message": message}]}, status=status)
