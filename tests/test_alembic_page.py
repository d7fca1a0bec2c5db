"""docs/alembic.md, as the owner of a project with an Alembic of its own does what it says."""

import re
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest
from sqlalchemy import Engine, MetaData, NullPool, create_engine, inspect, text
from sqlalchemy.engine import URL
from support.diary import Diary
from support.forks import forked
from support.programs import LONGEST, said_by

PAGE: Final = (Path(__file__).parents[1] / "docs" / "alembic.md").read_text(encoding="utf-8")
#: What the page adds to `context.configure`, and how it tells plugins apart by their names.
_ARGUMENT: Final = re.compile(
    r"^context\.configure\(\n    \.\.\.,\n(.*?)\)$", re.MULTILINE | re.DOTALL
)
_BY_NAME: Final = re.compile(r'`(name\.partition.*?)\{"shop", "notes"\}`')
#: The last revision of theirs about a table that is handed over.
_HANDED: Final = re.compile(r"    ```python\n    (def upgrade\(\):\n.*?)    ```", re.DOTALL)
#: The two kinds of bases that it tells apart.
OWN: Final = "metadata = MetaData()"
SHARED: Final = "metadata = db_manager.Base.metadata"
_MODELS: Final = """
import db_manager
from sqlalchemy import ForeignKey, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    {metadata}

class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
_ORDERS: Final = """
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column({key}index=True)
"""
_PAYMENTS: Final = """
class Payment(Base):
    __tablename__ = "payments"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
"""
_PLUGIN: Final = """
class Shop(Plugin):
    name = "shop"
    requires = ("db_manager",)
"""
NOTHING: Final = "No new upgrade operations detected"
pytestmark = pytest.mark.timeout(4 * LONGEST)  # each command is a process of its own


class Owner:
    """Somebody with models, their Alembic, and a bot with plugins, in one folder.

    Args:
        folder: The folder.
        url: Where the database is, for the bot.
        metadata: The line of the base that says its metadata.
    """

    def __init__(self, folder: Path, url: URL, metadata: str) -> None:
        self.folder = folder
        self.metadata = metadata
        self.bot = Diary(folder, url.render_as_string(hide_password=False))
        is_file = url.drivername.startswith("sqlite")
        self._url = url.set(drivername="sqlite" if is_file else "postgresql+psycopg")
        self.models("")
        self.plugins("diary:Diary")
        self.alembic("init", "theirs")
        where = self._url.render_as_string(hide_password=False)
        self._change("alembic.ini", r"^sqlalchemy\.url = .*$", f"sqlalchemy.url = {where}")
        target = "import models, diary\ntarget_metadata = models.Base.metadata"
        self._change("theirs/env.py", r"^target_metadata = None$", target)

    def models(self, *more: str) -> None:
        """Let the models be users, and *more*."""
        code = _MODELS.format(metadata=self.metadata) + "".join(more)
        (self.folder / "models.py").write_text(code, encoding="utf-8")

    def plugins(self, *names: str) -> None:
        """Let the bot have these plugins, with what the page says of [database]."""
        self.bot.plugins(*names, more="create_tables = false" if self.metadata == SHARED else "")

    def read_the_page(self, argument: str = "") -> None:
        """Write the argument of the page into both calls."""
        argument = argument or _ARGUMENT.findall(PAGE)[0]
        assert self._change("theirs/env.py", r"context\.configure\(", rf"\g<0>{argument}") == 2

    def begin(self, *models: str) -> None:
        """Let both have applied a first revision."""
        self.models(*models)
        self.writes("a1")
        self.alembic("upgrade", "head")
        self.bot("migrate", "revision")
        self.bot("migrate", "upgrade")

    def hand_over(self) -> None:
        """Do the first three steps of the page: the name, the model, and the first revision."""
        [body] = _HANDED.findall(PAGE)
        self.alembic("revision", "--rev-id", "a2", "-m", "x")
        self._change("theirs/versions/a2_x.py", r"^def upgrade(.|\n)*", dedent(f"    {body}"))
        orders = (self.folder / "models.py").read_text("utf-8").partition("class Order")[2]
        orders, _, payments = orders.partition("\n\n")
        self.models(payments.replace("orders.id", "shop__order.id"))
        model = f"\nclass Order{orders}\n".replace('"orders"', '"shop__order"')
        head = "from db_manager import Base\nfrom lifecycle import Plugin\nfrom models import "
        head += "ForeignKey, Mapped, mapped_column\n"
        (self.folder / "shop.py").write_text(head + model + _PLUGIN, encoding="utf-8")
        self._change("theirs/env.py", "import models, diary", "import models, diary, shop")
        self.plugins("diary:Diary", "shop:Shop")
        assert "shop/0001_first.py: written" in self.bot("migrate", "revision", "shop")

    def _change(self, name: str, pattern: str, new: str) -> int:
        file = self.folder / name
        code, number = re.subn(pattern, new, file.read_text("utf-8"), flags=re.MULTILINE)
        assert number
        file.write_text(code, encoding="utf-8")
        return number

    def alembic(self, *arguments: str, code: int = 0) -> str:
        """Run the command `alembic`; return what it says."""
        command = forked("-m", "alembic", *arguments)
        return said_by(*command, cwd=self.folder, code=code, PYTHONPATH=str(self.folder))

    def writes(self, name: str) -> str:
        """Let their autogenerate write a revision; return what its upgrade does."""
        self.alembic("revision", "--autogenerate", "--rev-id", name, "-m", "x")
        code = (self.folder / "theirs" / "versions" / f"{name}_x.py").read_text("utf-8")
        return code.partition("def upgrade")[2].partition("def downgrade")[0]

    def _engine(self) -> Engine:
        return create_engine(self._url, poolclass=NullPool)

    def say(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement; return its rows."""
        with self._engine().begin() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    def tables(self) -> set[str]:
        """Return the names of the tables that are there."""
        with self._engine().connect() as connection:
            return set(inspect(connection).get_table_names())

    def drop_all(self) -> None:
        """Let the database be as a new one."""
        there = MetaData()
        with self._engine().begin() as connection:
            there.reflect(connection)
            there.drop_all(connection)


@pytest.fixture(params=[OWN, SHARED], ids=["own", "shared"])
def owner(tmp_path: Path, database_url: URL, request: pytest.FixtureRequest) -> Owner:
    """The owner of a project, once with a metadata of its own and once with ours."""
    return Owner(tmp_path, database_url, request.param)


def test_without_the_argument_their_next_revision_drops_ours(owner: Owner) -> None:
    """What the page warns of: Alembic drops what it does not know."""
    owner.begin()
    assert "op.drop_table('diary__alembic_version')" in owner.writes("a2")


@pytest.mark.matrix(
    "M16",
    load="Alembic of one's own in the database, with its one line",
    result="each finds its own changes, and no more",
)
def test_neither_sees_the_other(owner: Owner) -> None:
    """Both write and apply revisions in one database; each finds its own changes, and no more."""
    owner.read_the_page()
    owner.begin(_ORDERS.format(key=""))
    ours = {"diary__note", "diary__alembic_version"}
    assert owner.tables() == {"users", "orders", "alembic_version"} | ours
    assert NOTHING in owner.alembic("check")
    assert owner.bot("migrate", "revision", "--check") == "diary: nothing to do\n"
    owner.models(_ORDERS.format(key=""), "    note: Mapped[str | None]\n")
    owner.bot.models("more: Mapped[str | None]")
    theirs = owner.writes("a2")
    assert "op.add_column('orders', sa.Column('note'" in theirs
    assert theirs.count("op.") == 1
    assert "0002_add_more.py: written" in owner.bot("migrate", "revision")
    written = (owner.folder / "migrations" / "diary" / "0002_add_more.py").read_text("utf-8")
    assert set(re.findall(r"\w+__\w+|users|orders", written)) == {"diary__note"}
    owner.alembic("upgrade", "head")
    owner.bot("migrate", "upgrade")
    assert NOTHING in owner.alembic("check")
    owner.alembic("downgrade", "base")
    assert owner.tables() == {"alembic_version"} | ours
    assert owner.bot("migrate") == "diary            0002_add_more\n"


def test_plugins_can_be_told_by_their_names(tmp_path: Path, sqlite_database: URL) -> None:
    """For whoever has `__` in the names of tables: theirs are seen, and ours are not."""
    owner = Owner(tmp_path, sqlite_database, OWN)
    [condition] = _BY_NAME.findall(PAGE)
    [argument] = _ARGUMENT.findall(PAGE)
    assert '"__" not in name' in argument
    owner.read_the_page(argument.replace('"__" not in name', condition + '{"diary"}'))
    owner.begin(_ORDERS.format(key="").replace("orders", "old__orders"))
    assert owner.tables() >= {"old__orders", "diary__note"}
    assert NOTHING in owner.alembic("check")


def test_a_table_is_handed_over(owner: Owner) -> None:
    """With its rows and what refers to it, by the steps of the page; also on a new database."""
    shared = owner.metadata == SHARED
    owner.read_the_page()
    key = 'ForeignKey("users.id"), ' if shared else ""
    owner.begin(_ORDERS.format(key=key), *[_PAYMENTS] * shared)
    owner.say("INSERT INTO users (id) VALUES (7)")
    owner.say("INSERT INTO orders (id, user_id) VALUES (1, 7)")
    owner.hand_over()
    owner.alembic("upgrade", "head")
    if shared:
        assert owner.bot("migrate", "stamp", "shop", "0001") == "shop: at 0001_first\n"
    else:
        assert "shop: 0001_first in" in owner.bot("migrate", "upgrade")
    assert owner.say("SELECT id, user_id FROM shop__order") == [(1, 7)]
    assert "! " not in owner.bot("check")
    assert "nothing to do" in owner.bot("migrate", "revision", "shop", "--check")
    assert NOTHING in owner.alembic("check")
    owner.drop_all()
    owner.alembic("upgrade", "head")
    assert "shop: 0001_first in" in owner.bot("migrate", "upgrade")
    assert owner.bot("migrate") == "diary            0001_first\nshop             0001_first\n"
    assert NOTHING in owner.alembic("check")


def test_what_the_page_warns_of(tmp_path: Path, sqlite_database: URL) -> None:
    """A foreign key that no model of theirs has is dropped; who starts first makes the table."""
    owner = Owner(tmp_path, sqlite_database, OWN)
    owner.read_the_page()
    owner.begin(_ORDERS.format(key=""), _PAYMENTS)
    owner.hand_over()
    owner.bot("migrate", "upgrade")
    assert "already another table" in owner.alembic("upgrade", "head", code=1)
    owner.say("DROP TABLE shop__order")
    owner.alembic("upgrade", "head")
    model = _PAYMENTS.replace(' = mapped_column(ForeignKey("orders.id"))', "")
    owner.models(model)
    assert "op.drop_constraint(None, 'payments', type_='foreignkey')" in owner.writes("a3")
