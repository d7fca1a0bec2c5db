"""The tools of the tests do what they say."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeAlias

import asyncmy
import asyncpg
import psycopg
import pytest
from sqlalchemy.engine import URL
from support.pgbouncer import PgBouncer
from support.ports import KeptPort, listens
from support.postgres import ENVIRONMENT, PostgresServer, postgres_url
from support.postgres_binaries import installed_tree, readable_copy
from support.proxy import PostgresProxy
from support.suspension import cancel_at, cancel_everywhere
from support.verdict import Books

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # generic for type checkers only


@asynccontextmanager
async def connected(url: URL, **arguments: Any) -> AsyncIterator[Connection]:
    """Connect to *url* with asyncpg; the end of the block drops the connection."""
    connection: Connection = await asyncpg.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        password=url.password,
        database=url.database,
        **arguments,
    )
    try:
        yield connection
    finally:
        connection.terminate()


async def rows(url: URL) -> list[int]:
    """Return what the table holds, asked without the proxy."""
    async with connected(url) as connection:
        return [row["id"] for row in await connection.fetch("SELECT id FROM t ORDER BY id")]


@pytest.fixture
async def table(postgres_database: URL) -> URL:
    """URL of a database with the empty table `t`."""
    async with connected(postgres_database) as connection:
        await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    return postgres_database


@pytest.fixture
async def proxy(table: URL) -> AsyncIterator[PostgresProxy]:
    """Stand between the test and the server of the table."""
    assert table.host is not None
    async with PostgresProxy(table.host, table.port or 5432) as proxy:
        yield proxy


async def insert(connection: Connection, number: int = 1) -> None:
    """Insert one row in a transaction."""
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES ($1)", number)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Start a private server with a password."""
    with PostgresServer(password="canary") as server:
        yield server


class TestPostgresServer:
    async def test_password(self, server: PostgresServer) -> None:
        """The wrong password is refused over TCP and over the socket."""
        for host in (server.host, str(server.socket_directory)):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(
                    host=host, port=server.port, user=server.user, password="wrong"
                )

    async def test_crash(self, server: PostgresServer) -> None:
        """What was committed is there after each way of stopping, on the same port."""
        url = server.url()
        for number, mode in enumerate(("fast", "immediate", "kill")):
            async with connected(url) as connection:
                await connection.execute("CREATE TABLE IF NOT EXISTS t (id int)")
                await connection.execute("INSERT INTO t VALUES ($1)", number)
                before = server.pid
                server.restart(mode)  # type: ignore[arg-type]  # mypy widens the literals
            assert server.pid != before
            assert server.url() == url
            assert await rows(url) == list(range(number + 1))

    def test_refuses_a_stranger(self, server: PostgresServer) -> None:
        """A server that finds another one on its port stops, and leaves the other alone."""
        stranger = PostgresServer(password=server.password)
        stranger.port = server.port
        try:
            with pytest.raises(RuntimeError, match="belongs to another server"):
                stranger.start()
            stranger.password = None  # now the other one does not even answer
            with pytest.raises(RuntimeError, match="did not start"):
                stranger.start()
            with pytest.raises(RuntimeError, match="not running"):
                _ = stranger.pid
        finally:
            stranger.remove()
        server.restart()

    def test_readable_copy(self) -> None:
        """The copy for `nobody` is complete enough to start its programs."""
        copy = readable_copy(installed_tree())
        command = [str(copy / "bin" / "initdb"), "--version"]
        assert b"PostgreSQL" in subprocess.run(command, check=True, capture_output=True).stdout

    def test_unusable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A given server that does not answer is a failure that says so, without the password."""
        monkeypatch.setenv(ENVIRONMENT, "postgresql://bot:canary@127.0.0.1:1/bot")
        with pytest.raises(RuntimeError, match=r"bot:\*\*\*@127.0.0.1:1.*cannot be used"):
            postgres_url().__enter__()


async def test_books_of_a_server_that_takes_nobody() -> None:
    """A server that answers, and refuses everybody, is away as one that does not answer is."""
    with PostgresServer() as server:
        books = Books(server.url(), inbox=False)
        async with connected(server.url()) as connection:
            await connection.execute("CREATE TABLE delivery__outbox (state int)")
            assert await books.open_rows() == 0
            os.kill(server.pid, signal.SIGTERM)  # until this connection is closed, it waits
            async with asyncio.timeout(10):
                while await books.open_rows() == 0:
                    pass
            assert await connection.fetchval("SELECT 1") == 1
            with pytest.raises(asyncpg.CannotConnectNowError):
                async with connected(server.url()):
                    pass
            assert await books.open_rows() == -1
            assert await books.held_by(1) == set()


class TestProxy:
    async def test_commit_lost(self, table: URL, proxy: PostgresProxy) -> None:
        """A cut before COMMIT leaves no row."""
        rule = proxy.on_client(b"COMMIT", proxy.cut)
        async with connected(proxy.url(table)) as connection:
            with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionError)):
                await insert(connection)
        assert rule.fired.is_set()
        assert await rows(table) == []

    @pytest.mark.parametrize("polite", [False, True])
    async def test_answer_lost(self, table: URL, proxy: PostgresProxy, *, polite: bool) -> None:
        """A cut at the answer to COMMIT fails in the same way, and the row is there."""
        proxy.on_server(b"COMMIT", proxy.finish if polite else proxy.cut)
        async with connected(proxy.url(table)) as connection:
            with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionError)):
                await insert(connection)
        assert await rows(table) == [1]

    async def test_hold(self, table: URL, proxy: PostgresProxy) -> None:
        """A held answer arrives after resume; other clients do not notice."""
        rule = proxy.on_server(b"COMMIT", proxy.hold)
        async with connected(proxy.url(table)) as connection:
            task = asyncio.create_task(insert(connection))
            await rule.fired.wait()
            async with connected(proxy.url(table)) as other:
                assert await other.fetchval("SELECT count(*) FROM t") == 1
            assert not task.done()
            await proxy.resume()
            await task

    async def test_black_hole(self, table: URL, proxy: PostgresProxy) -> None:
        """A black hole at ROLLBACK swallows it, and new connections as well."""
        rule = proxy.on_client(b"^ROLLBACK", proxy.black_hole)
        async with connected(proxy.url(table)) as connection:
            await connection.execute("BEGIN; INSERT INTO t VALUES (1)")
            task = asyncio.create_task(connection.execute("ROLLBACK"))
            await rule.fired.wait()
            with pytest.raises(TimeoutError):
                await asyncpg.connect(
                    host=proxy.host, port=proxy.port, user=table.username, timeout=0.1
                )
            assert not task.done()
            await proxy.resume()
            assert await task == "ROLLBACK"

    async def test_nobody_takes_the_port_of_one_who_refuses(self, proxy: PostgresProxy) -> None:
        """A port is not given to others while its proxy refuses connections."""
        proxy.refuse()
        with ExitStack() as others:
            taken = {others.enter_context(KeptPort()).number for _ in range(200)}
            with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
                stranger.bind((proxy.host, proxy.port))
        assert proxy.port not in taken
        await proxy.resume()
        assert listens(proxy.port)

    async def test_refuse(self, table: URL, proxy: PostgresProxy) -> None:
        """While it refuses, open connections live on; after resume the port is the same."""
        async with connected(proxy.url(table)) as connection:
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncpg.connect(host=proxy.host, port=proxy.port, user=table.username)
            assert await connection.fetchval("SELECT 1") == 1
        port = proxy.port
        await proxy.resume()
        assert proxy.port == port
        async with connected(proxy.url(table)) as connection:
            assert await connection.fetchval("SELECT 1") == 1

    async def test_prepared(self, table: URL, proxy: PostgresProxy) -> None:
        """The n-th run of a prepared statement is found, though only its name is sent."""
        proxy.on_client(b"INSERT", proxy.cut, nth=3)
        async with connected(proxy.url(table)) as connection:
            statement = await connection.prepare("INSERT INTO t VALUES ($1)")
            await statement.fetch(1)
            await statement.fetch(2)
            with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionError)):
                await statement.fetch(3)
        assert await rows(table) == [1, 2]

    async def test_action(self, table: URL, proxy: PostgresProxy) -> None:
        """An action may be a coroutine: here the administrator ends the backend at its BEGIN."""

        async def terminate(link: Any) -> None:
            async with connected(table) as admin:
                await admin.execute(f"SELECT pg_terminate_backend({link.backend_pid}, 5000)")

        proxy.on_client(b"BEGIN", terminate)
        async with connected(proxy.url(table)) as connection:
            with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="administrator"):
                await insert(connection)

    async def test_broken_action(self, table: URL) -> None:
        """An action that raises fails the test that made it."""
        assert table.host is not None

        def broken(_: object) -> None:
            raise LookupError("broken")

        with pytest.RaisesGroup(LookupError):
            async with PostgresProxy(table.host, table.port or 5432) as proxy:
                proxy.on_client(b"SELECT", broken)
                async with connected(proxy.url(table)) as connection:
                    with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionError)):
                        await connection.fetchval("SELECT 1")

    async def test_round_trips(self, table: URL, proxy: PostgresProxy) -> None:
        """A simple query is one round trip; an unprepared one with arguments is two, then one."""
        async with connected(proxy.url(table)) as connection:
            counts = [proxy.round_trips]
            for query in ("SELECT 1", "SELECT 2"):
                await connection.execute(query)
                counts.append(proxy.round_trips)
            for number in (1, 2):
                await connection.fetchval("SELECT $1::int", number)
                counts.append(proxy.round_trips)
        assert counts == [0, 1, 2, 4, 5]

    @pytest.mark.parametrize("threshold", [None, 0])
    async def test_psycopg(self, table: URL, proxy: PostgresProxy, threshold: int | None) -> None:
        """BEGIN, COMMIT and prepared statements of psycopg are seen as well."""
        begun = proxy.on_client(b"^BEGIN$", lambda _: None)
        proxy.on_client(b"INSERT", lambda _: None, nth=2)
        lost = proxy.on_client(b"^COMMIT$", proxy.cut)
        connection = await psycopg.AsyncConnection.connect(
            host=proxy.host,
            port=proxy.port,
            user=table.username,
            password=table.password,
            dbname=table.database,
            prepare_threshold=threshold,
        )
        await connection.execute("INSERT INTO t VALUES (%s)", [1])
        await connection.execute("INSERT INTO t VALUES (%s)", [2])
        with pytest.raises(psycopg.OperationalError):
            await connection.commit()
        await connection.close()
        assert (begun.count, lost.count) == (1, 1)
        assert await rows(table) == []

    async def test_cancel_request(self, table: URL, proxy: PostgresProxy) -> None:
        """A CancelRequest, which is sent on a connection of its own, passes and is counted."""
        async with connected(proxy.url(table)) as connection:
            with pytest.raises(TimeoutError):
                await connection.fetchval("SELECT pg_sleep(60)", timeout=0.05)
            assert await connection.fetchval("SELECT 1") == 1
        assert proxy.cancel_requests == 1


class TestSuspension:
    async def test_every_k(self) -> None:
        """Each run ends at its own suspension, and the first that is not cancelled ends it all."""
        reached: list[int] = []

        async def three(k: int) -> None:
            for step in range(3):
                reached.append(10 * k + step)
                await asyncio.sleep(0)

        outcomes = [outcome async for outcome in cancel_everywhere(three)]
        assert [outcome.k for outcome in outcomes] == [1, 2, 3]
        assert all(isinstance(outcome.error, asyncio.CancelledError) for outcome in outcomes)
        assert reached == [10, 20, 21, 30, 31, 32, 40, 41, 42]

    @pytest.mark.parametrize(("times", "cleaned"), [(1, 2), (2, 1), (3, 0), (None, 0)])
    async def test_again(self, times: int | None, cleaned: int) -> None:
        """Cancelled more often, it is also cancelled in the clean-up of the time before."""
        done: list[int] = []

        async def stubborn() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                try:
                    await asyncio.sleep(0)
                    done.append(1)
                finally:
                    await asyncio.sleep(0)
                    done.append(2)

        outcome = await cancel_at(1, stubborn(), times=times)
        assert isinstance(outcome.error, asyncio.CancelledError)
        assert len(done) == cleaned

    async def test_late(self) -> None:
        """Cancelled late, the result has arrived, and is lost."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()

        async def ask() -> str:
            loop.call_soon(answer.set_result, "answer")
            return await answer

        outcome = await cancel_at(1, ask(), late=True)
        assert isinstance(outcome.error, asyncio.CancelledError)
        assert answer.result() == "answer"

    async def test_swallowed(self) -> None:
        """A coroutine that eats its cancellation is told apart by its value."""

        async def deaf() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "what?"
            return "never"

        outcome = await cancel_at(1, deaf())
        assert (outcome.cancelled, outcome.value, outcome.error) == (True, "what?", None)

    @pytest.mark.parametrize("late", [False, True])
    @pytest.mark.parametrize("times", [1, 2])
    async def test_asyncpg(self, table: URL, times: int, *, late: bool) -> None:
        """A transaction of asyncpg is cancelled at each step of connecting, insert and commit."""

        async def unit(k: int) -> None:
            async with connected(table) as connection:
                await insert(connection, k)

        outcomes = [o async for o in cancel_everywhere(unit, times=times, late=late)]
        assert len(outcomes) > 5
        assert all(isinstance(outcome.error, asyncio.CancelledError) for outcome in outcomes)
        assert len(outcomes) + 1 in await rows(table)


async def test_pgbouncer(pgbouncer: PgBouncer, postgres_database: URL) -> None:
    """Many clients of PgBouncer share the two connections of its pool."""

    async def backend() -> int:
        url = pgbouncer.url(postgres_database)
        async with connected(url, statement_cache_size=0) as connection, connection.transaction():
            pid: int = await connection.fetchval("SELECT pg_backend_pid()")
            return pid

    assert len(set(await asyncio.gather(*(backend() for _ in range(20))))) <= 2


async def test_mariadb(mariadb_database: URL) -> None:
    """A test on MariaDB begins with an empty database of its own."""
    connection = await asyncmy.connect(
        host=mariadb_database.host,
        port=mariadb_database.port or 3306,
        user=mariadb_database.username,
        password=mariadb_database.password or "",
        db=mariadb_database.database,
    )
    async with connection.cursor() as cursor:
        await cursor.execute("SHOW TABLES")
        assert list(await cursor.fetchall()) == []
    connection.close()
