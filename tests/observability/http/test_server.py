"""The endpoint: what a scraper and an orchestrator are told, and that it ends cleanly."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from threading import Event as Flag
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from sqlalchemy import text
from support.ports import HOST, free_port, listens

from lifecycle.application import Application
from lifecycle.errors import ConfigError, PluginFailedError
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from observability import metrics
from observability.http.address import parse_address
from observability.http.connections import MOST
from observability.http.server import Endpoint

ANYWHERE = f"{HOST}:0"


class Sick(Plugin):
    """A plugin whose health is a matter of taste."""

    name = "sick"
    is_sick = True

    async def start(self, context: PluginContext) -> None:
        """Keep the context, to be degraded by the test."""
        self.context = context

    async def health(self, context: PluginContext) -> None:
        """Raise when it is sick."""
        if self.is_sick:
            raise ConnectionError(f"{context.name} lost its way")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Asks."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


class Serving:
    """An endpoint for the time of a block."""

    def __init__(self, app: Application, measured: metrics.Metrics | None = None) -> None:
        self.endpoint = Endpoint(app, ANYWHERE, measured)

    async def __aenter__(self) -> str:
        self.endpoint.start()
        return f"http://{self.endpoint.address}"

    async def __aexit__(self, *_: object) -> None:
        await self.endpoint.stop()


async def ask(http: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    """Return the status and the JSON of an answer."""
    async with http.get(url) as answer:
        return answer.status, await answer.json()


async def test_alive_and_ready(application: Application, http: aiohttp.ClientSession) -> None:
    """It is alive from the begin to the end, and ready only while every plugin is started."""
    async with Serving(application) as url:
        not_yet = {"db_manager": {"state": "unloaded", "healthy": False, "error": "is unloaded"}}
        assert await ask(http, f"{url}/readyz") == (
            503,
            {"status": "not ready", "plugins": not_yet},
        )
        async with application:
            assert await ask(http, f"{url}/healthz") == (200, {"status": "alive"})
            assert await ask(http, f"{url}/readyz") == (
                200,
                {
                    "status": "ready",
                    "plugins": {"db_manager": {"state": "started", "healthy": True}},
                },
            )
            await application.stop()
            assert (await ask(http, f"{url}/readyz"))[0] == 503
        assert await ask(http, f"{url}/healthz") == (200, {"status": "alive"})


async def test_a_plugin_that_is_not_well(http: aiohttp.ClientSession) -> None:
    """One plugin that is ill or degraded makes the bot not ready, and is named."""
    plugin = Sick()
    app = Application([plugin])
    async with app, Serving(app) as url:
        status, answer = await ask(http, f"{url}/readyz")
        assert status == 503
        assert answer["plugins"]["sick"]["error"] == "ConnectionError: sick lost its way"
        plugin.is_sick = False
        assert (await ask(http, f"{url}/readyz"))[0] == 200
        plugin.context.degraded("no database")
        status, answer = await ask(http, f"{url}/readyz")
        assert (status, answer["plugins"]["sick"]["error"]) == (503, "is degraded")


async def test_a_text_that_is_no_unicode(http: aiohttp.ClientSession) -> None:
    """Half a character in an error or in the name of a plugin does not keep the answer back."""

    class Odd(Sick):
        name = "od\udcffd"

        async def health(self, context: PluginContext) -> None:
            """Raise."""
            del context
            raise FileNotFoundError("no file \udcff")

    app = Application([Odd()])
    async with app, Serving(app) as url:
        status, answer = await ask(http, f"{url}/readyz")
    assert status == 503
    assert list(answer["plugins"]) == ["od\udcffd"]
    assert answer["plugins"]["od\udcffd"]["error"] == r"FileNotFoundError: no file \udcff"


async def test_many_who_ask_at_once_are_one_check(http: aiohttp.ClientSession) -> None:
    """However many ask whether the bot is ready, its plugins are asked once at a time."""
    running, most, may_end = 0, 0, asyncio.Event()

    class Slow(Plugin):
        name = "slow"

        async def health(self, context: PluginContext) -> None:
            nonlocal running, most
            del context
            running += 1
            most = max(most, running)
            await may_end.wait()
            running -= 1

    app = Application([Slow])
    async with app, Serving(app) as url:
        asking = [asyncio.create_task(ask(http, f"{url}/readyz")) for _ in range(5)]
        while not running:
            await ask(http, f"{url}/healthz")
        may_end.set()
        assert {status for status, _ in await asyncio.gather(*asking)} == {200}
    assert most == 1


async def test_a_scrape(application: Application, http: aiohttp.ClientSession) -> None:
    """`/metrics` shows the metrics, as text and as OpenMetrics."""
    with metrics.attach(application.bus, probes=application.probes) as measured:
        async with application, Serving(application, measured) as url:
            async with application.services["db_manager:uow_factory"]():
                pass
            async with http.get(f"{url}/metrics") as answer:
                assert answer.status == 200
                assert answer.content_type == "text/plain"
                assert 'uow_close_total{outcome="committed"} 1.0\n' in await answer.text()
            accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
            async with http.get(f"{url}/metrics", headers=accept) as answer:
                assert answer.content_type == "application/openmetrics-text"
                assert (await answer.text()).endswith("# EOF\n")


async def test_without_metrics(application: Application, http: aiohttp.ClientSession) -> None:
    """Without metrics there is no such page, and nothing can be changed by anyone."""
    async with Serving(application) as url:
        async with http.get(f"{url}/metrics") as answer:
            assert answer.status == 404
        async with http.post(f"{url}/healthz") as answer:
            assert answer.status == 405


async def test_a_scrape_that_hangs_blocks_nothing(
    application: Application, http: aiohttp.ClientSession
) -> None:
    """While a probe hangs: units go on, the process is alive, a second scrape is refused."""
    asked, may_end = Flag(), Flag()

    def hanging() -> float:
        asked.set()
        return float(may_end.wait(10))

    application.probes["test:hanging"] = hanging
    with metrics.attach(application.bus, probes=application.probes) as measured:
        async with application, Serving(application, measured) as url:
            scrape = asyncio.create_task(http.get(f"{url}/metrics"))
            assert await asyncio.to_thread(asked.wait, 10)
            async with application.services["db_manager:uow_factory"]() as uow:
                await uow.session.execute(text("SELECT 1"))
            assert await ask(http, f"{url}/healthz") == (200, {"status": "alive"})
            async with http.get(f"{url}/metrics") as answer:
                assert answer.status == 503
            may_end.set()
            async with await scrape as answer:
                assert answer.status == 200
    assert uow.state == "committed"


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, StopIteration])
async def test_a_scrape_that_fails(
    application: Application,
    http: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
) -> None:
    """A collector of somebody else that raises, whatever it is, costs one scrape, and is logged."""
    fails = True

    class Broken(Collector):
        def collect(self) -> Iterator[Metric]:
            if fails:
                raise error
            return iter(())

    registry = CollectorRegistry()
    registry.register(Broken())
    with metrics.attach(application.bus, registry=registry) as measured:
        async with Serving(application, measured) as url:
            async with http.get(f"{url}/metrics") as answer:
                assert answer.status == 500
            assert await ask(http, f"{url}/healthz") == (200, {"status": "alive"})
            fails = False
            async with http.get(f"{url}/metrics") as answer:
                assert answer.status == 200
    assert error.__name__ in caplog.text


async def test_a_scrape_that_hangs_holds_up_no_stop(
    application: Application, http: aiohttp.ClientSession
) -> None:
    """Who scrapes a probe that hangs loses the connection; the endpoint ends."""
    asked, may_end = Flag(), Flag()

    def hanging() -> float:
        asked.set()
        return float(may_end.wait(10))

    with metrics.attach(application.bus, probes={"test:hanging": hanging}) as measured:
        endpoint = Endpoint(application, ANYWHERE, measured)
        endpoint.start()
        scrape = asyncio.create_task(http.get(f"http://{endpoint.address}/metrics"))
        assert await asyncio.to_thread(asked.wait, 10)
        async with asyncio.timeout(5):
            await endpoint.stop()
        with pytest.raises(aiohttp.ClientError):
            await scrape
        may_end.set()


async def test_a_client_that_says_nothing_holds_up_no_stop(application: Application) -> None:
    """An open connection without a request does not keep the application from ending."""
    port = free_port()
    endpoint = Endpoint(application, f"{HOST}:{port}")
    endpoint.start()
    _, writer = await asyncio.open_connection(HOST, port)
    while not endpoint._connections:  # noqa: ASYNC110 -- it tells nobody that it has accepted one
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await endpoint.stop()
    writer.close()
    assert not listens(port)


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("9100", ("127.0.0.1", 9100)),
        (":9100", ("127.0.0.1", 9100)),
        ("[::1]:9100", ("::1", 9100)),
        ("0.0.0.0:9100", ("0.0.0.0", 9100)),  # noqa: S104 -- whoever writes this wants it
    ],
)
def test_addresses(address: str, parsed: tuple[str, int]) -> None:
    """Who says no host means loopback."""
    assert parse_address(address) == parsed


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:", "127.0.0.1:http", ":70000", "::1"])
def test_wrong_addresses(address: str) -> None:
    """What is no address is refused with the key and an example, before anything runs."""
    with pytest.raises(ConfigError, match=r"\[observability\] endpoint: .*write host:port"):
        Application([], config={"observability": {"endpoint": address}})


async def test_an_address_that_is_taken() -> None:
    """The start fails at once, before anything loads, and leaves nothing behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        section = {"endpoint": f"127.0.0.1:{port}", "metrics": True}
        app = Application([Sick], config={"observability": section})
        with pytest.raises(ConfigError, match=r"\[observability\] endpoint: .*in use"):
            await app.start()
    assert not app.bus.subscriptions
    assert not app.services.names()


async def test_the_section_switches_it_on(http: aiohttp.ClientSession) -> None:
    """With the three keys the bot answers from before the first hook until after the last."""
    answers = []

    class Asking(Plugin):
        name = "asking"

        async def load(self, context: PluginContext) -> None:
            self.url = f"http://{context.services['observability:endpoint'].address}"
            await self.note()

        async def unload(self, context: PluginContext) -> None:
            del context
            await self.note()

        async def note(self) -> None:
            answers.append((await ask(http, f"{self.url}/readyz"))[1]["plugins"]["asking"])

    plugin = Asking()
    section = {"endpoint": ANYWHERE, "metrics": True, "traces": True, "level": "error"}
    app = Application([plugin], config={"observability": section})
    async with app:
        async with http.get(f"{plugin.url}/metrics") as answer:
            assert 'plugin_started_total{plugin="asking"} 1.0' in await answer.text()
        assert isinstance(app.services["observability:metrics"], metrics.Metrics)
    assert [answer["state"] for answer in answers] == ["loading", "unloading"]
    with pytest.raises(aiohttp.ClientConnectorError):
        await http.get(f"{plugin.url}/healthz")
    assert not app.bus.subscriptions
    assert not app.services.names()


async def test_a_failed_start_frees_the_address() -> None:
    """After a plugin that does not start, and the unload, the address is free again."""
    port = free_port()
    taken = []

    class Failing(Plugin):
        name = "failing"

        async def load(self, context: PluginContext) -> None:
            taken.append(listens(port))
            raise ValueError(context.name)

    section = {"endpoint": f"{HOST}:{port}", "level": "error"}
    with pytest.raises(PluginFailedError):
        async with Application([Failing], config={"observability": section}):
            pass
    assert taken == [True]
    assert not listens(port)


HALF = (
    b"",
    b"G",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n",
)


async def half_sent(address: str, count: int) -> list[asyncio.StreamReader]:
    """Open connections that send a part of a request."""
    host, _, port = address.removeprefix("http://").partition(":")
    readers = []
    for number in range(count):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(HALF[number % len(HALF)])
        readers.append(reader)
        opened.append(writer)
    return readers


opened: list[asyncio.StreamWriter] = []


@pytest.fixture
def _closed() -> Iterator[None]:
    yield
    for writer in opened:
        writer.close()
    opened.clear()


@pytest.mark.usefixtures("_closed")
async def test_half_requests_keep_nobody_from_an_answer(
    application: Application, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While hundreds send half a request, a whole one is answered; the halves are ended."""
    monkeypatch.setattr("observability.http.connections.REQUEST_TIME", 1.0)
    with metrics.attach(application.bus) as measured:
        serving = Serving(application, measured)
        async with serving as url:
            readers = await half_sent(url, 300)
            for path in ("/healthz", "/metrics"):
                async with http.get(url + path) as answer:
                    assert answer.status == 200
                    assert answer.headers["Connection"] == "close"
            connections = serving.endpoint._connections
            assert connections is not None
            assert 20 < len(connections) <= MOST
            async with asyncio.timeout(20):
                for reader in readers:
                    with contextlib.suppress(ConnectionError):
                        await reader.read()  # to its end
            assert not connections._waiting
            async with http.get(f"{url}/healthz") as answer:
                assert answer.status == 200


@pytest.mark.usefixtures("_closed")
async def test_an_answer_that_nobody_reads_ends(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose answer does not end is ended."""
    monkeypatch.setattr("observability.http.connections.ANSWER_TIME", 0.2)
    go_on = Flag()

    class Slow(Collector):
        def collect(self) -> Iterator[Metric]:
            go_on.wait(30)
            return iter(())

    registry = CollectorRegistry()
    registry.register(Slow())
    with metrics.attach(application.bus, registry=registry) as measured:
        async with Serving(application, measured) as url:
            host, _, port = url.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            opened.append(writer)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            go_on.set()


@pytest.mark.usefixtures("_closed")
@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
async def test_a_head_that_is_too_large_or_none(application: Application, request_: bytes) -> None:
    """It is refused, and the connection ends; older releases of aiohttp count no lines of it."""
    async with Serving(application) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        opened.append(writer)
        writer.write(request_)
        answer = await asyncio.wait_for(reader.read(), 20)
        codes = (b" 400 ", b" 404 ") if request_.count(b"\n") > 1000 else (b" 400 ",)
        assert answer == b"" or any(code in answer[:20] for code in codes)
