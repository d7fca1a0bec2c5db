"""A plugin with one table, and a bot on it, for tests of migrations."""

from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL
from support.project import Project

from db_manager.plugin import DatabasePlugin
from lifecycle.application import Application

MODEL: Final = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
#: Makes the table, with a row in it.
FIRST: Final = """
def upgrade():
    op.create_table("shop__item", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO shop__item (id) VALUES (1)")
"""
#: Changes the table and its row.
SECOND: Final = """
def upgrade():
    op.add_column("shop__item", sa.Column("n", sa.Integer))
    op.execute("UPDATE shop__item SET n = 8")
"""


def shop_at(folder: Path, url: URL, second: str = SECOND) -> Project:
    """Return a project with two revisions in the new *folder*, on the database at *url*."""
    project = Project.at(folder, url)
    project.models(MODEL)
    project.write("0001_first", FIRST)
    project.write("0002_second", second, after="0001_first")
    return project


def application(
    *projects: Project, base: type[DatabasePlugin] = DatabasePlugin, **keys: object
) -> Application:
    """Return a bot on the models of a project, or on several databases.

    Args:
        *projects: The projects; of several, each has a database by the name of its folder.
        base: What the plugin of a database is made of.
        **keys: Keys of [database], for each.
    """
    plugins: list[type[DatabasePlugin]] = []
    config = {}
    for project in projects:
        assert project.config.url is not None
        body: dict[str, object] = {"metadata": project.metadata}
        if len(projects) > 1:
            body["name"] = project.folder.name
        plugins.append(type("Plugin", (base,), body))
        section = project.folder.name if len(projects) > 1 else "database"
        config[section] = {"url": project.config.url.get_secret_value(), **keys}
    return Application(plugins, config=config)
