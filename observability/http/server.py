"""The HTTP endpoint: `/healthz` and `/readyz` for orchestrators, `/metrics` for Prometheus."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from aiohttp import web

from lifecycle.application import Application
from lifecycle.plugins.machine import State
from lifecycle.threads import in_thread
from observability.http.address import parse_address
from observability.http.connections import Connections
from observability.metrics import Metrics

#: Seconds that requests in progress are given at shutdown.
_LAST_REQUESTS: Final = 0.5


class Endpoint:
    """Serves one address, from `start` to `stop`.

    `/healthz` answers while the process is alive and its event loop runs; `/readyz` is 200 when
    every plugin is started and healthy, else 503 with the reasons; `/metrics` exists when there are
    metrics. A connection carries one request. `connections` limits their number and duration; a
    request has at most 128 header fields of 8 kB.

    Args:
        app: The application.
        address: `host:port`, `[::1]:port`, or a port alone for 127.0.0.1.
        metrics: What `/metrics` shows.

    Raises:
        ValueError: The address cannot be parsed.
        OSError: The address cannot be bound.
    """

    def __init__(self, app: Application, address: str, metrics: Metrics | None = None) -> None:
        self._app = app
        self._checking: asyncio.Task[tuple[int, dict[str, Any]]] | None = None
        self._scraping: asyncio.Future[tuple[bytes, str]] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._connections: Connections | None = None
        routes = [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)]
        if metrics is not None:
            routes.append(web.get("/metrics", partial(self._show_metrics, metrics)))
        site = web.Application(middlewares=[self._one_request])
        site.add_routes(routes)
        self._runner = web.AppRunner(
            site, access_log=None, shutdown_timeout=_LAST_REQUESTS, lingering_time=0
        )
        host, port = parse_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family)

    @property
    def address(self) -> str:
        """The address it listens on, for example `127.0.0.1:9100`."""
        host, port, *_ = self._socket.getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Start serving; earlier requests wait for the first iteration of the event loop."""
        self._serving = asyncio.create_task(self._serve(), name="observability endpoint")

    async def stop(self) -> None:
        """Stop serving, and free the address."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait({self._serving})
        if self._checking is not None:
            self._checking.cancel()
        await self._runner.cleanup()
        if self._connections is not None:
            self._connections.close()
        self._socket.close()
        if self._serving is not None and not self._serving.cancelled():
            self._serving.result()

    async def _serve(self) -> None:
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101 -- made by setup
        self._connections = Connections(self._socket, server)
        await self._connections.accept()

    @web.middleware
    async def _one_request(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self._connections is not None:
            self._connections.asked(request.transport)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.force_close()
            raise
        response.force_close()
        return response

    # -- the answers ----------------------------------------------------------------------

    async def _healthz(self, _: web.Request) -> web.Response:
        return _json(200, {"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        # Requests that come while the plugins are checked share the result.
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        return _json(*await asyncio.shield(self._checking))

    async def _check(self) -> tuple[int, dict[str, Any]]:
        plugins = {}
        for name, health in (await self._app.health()).items():
            state = self._app.plugins[name].state
            plugins[name] = {"state": state.value, "healthy": health.healthy}
            if health.error:
                plugins[name]["error"] = health.error
        ready = all(
            each["healthy"] and each["state"] == State.STARTED.value for each in plugins.values()
        )
        status = "ready" if ready else "not ready"
        return (200 if ready else 503), {"status": status, "plugins": plugins}

    async def _show_metrics(self, metrics: Metrics, request: web.Request) -> web.Response:
        # In a thread, so that a probe that blocks delays no unit; one scrape at a time, so that a
        # probe that hangs takes one thread only.
        if self._scraping is not None and not self._scraping.done():
            raise web.HTTPServiceUnavailable(text="a scrape is in progress\n")
        accept = request.headers.get("Accept", "")
        self._scraping = in_thread(lambda: metrics.render(accept), "observability scrape")
        text, content_type = await asyncio.shield(self._scraping)
        return web.Response(body=text, headers={"Content-Type": content_type})


def _json(status: int, answer: dict[str, Any]) -> web.Response:
    text = json.dumps(answer) + "\n"  # in ASCII: a name of somebody's may be no text in UTF-8
    return web.Response(status=status, text=text, content_type="application/json")
