"""A start that takes tables over which were created from older models: M3."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL
from support.project import Project
from support.shop import application

from db_manager.check.diagnosis import diagnose
from db_manager.schema import create_missing_tables
from observability.testing import EventRecorder

OLD: Final = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(40))
"""
NEW: Final = OLD + "    price: Mapped[int] = mapped_column(default=5)\n"
#: What a bot had made that is older than the one whose models the first revision has.
OLDER: Final = OLD.replace("Mapped[str]", "Mapped[str | None]")

Row = Callable[..., None]


async def taken_over(project: Project, models: str) -> EventRecorder:
    """Create tables from *models*, with a row; then start a bot that has two migrations.

    Raises:
        AssertionError: The row is gone, or they were not applied.
    """
    project.models(models)
    engine = project.engine()
    await create_missing_tables(engine, project.metadata)
    await engine.dispose()
    await project.say("INSERT INTO shop__item (id, title) VALUES (1, 'tea')")
    for each in (OLD, NEW):
        project.models(each)
        assert await project.revision() is not None
    app = application(project)
    with EventRecorder(app.bus) as events:
        async with app:
            pass
    assert len(events.topic("database.migrated").events) == 2
    assert await project.say("SELECT id, title, price FROM shop__item") == [(1, "tea", 5)]
    return events


async def drift(project: Project) -> list[str]:
    """Return what `db-manager check` says of differences."""
    findings = await diagnose(project.config, project.metadata)
    return [each.text for each in findings if each.about == "drift"]


async def test_tables_that_are_as_the_first_revision_says(
    tmp_path: Path, url: URL, row: Row
) -> None:
    """M3: they are kept, with their rows, and later revisions change them."""
    project = Project.at(tmp_path / "shop", url)
    events = await taken_over(project, OLD)
    events.assert_none("database.drifted")
    assert await drift(project) == []
    row(
        "M3",
        load=f"{url.drivername}: tables of create_tables, as the first revision has them",
        result="kept and migrated; nothing differs",
    )


async def test_tables_that_are_other_than_that(tmp_path: Path, url: URL, row: Row) -> None:
    """M3: they are kept too; what differs is told by the start and by `check`."""
    project = Project.at(tmp_path / "shop", url)
    events = await taken_over(project, OLDER)
    told = events.assert_event("database.drifted").as_dict()
    assert told["differences"] == ("shop__item.title may be NULL, in the model it is NOT NULL",)
    [said] = await drift(project)
    assert said.startswith("shop__item.title may be NULL, in the model it is NOT NULL; ")
    row(
        "M3",
        load=f"{url.drivername}: tables of create_tables, older than the first revision",
        result="kept and migrated; the difference is an event, and in check",
    )
