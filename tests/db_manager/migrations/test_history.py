"""A history is one line of files, which are read without Alembic."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import said_by
from support.project import Project

from db_manager.migrations.failure import MigrationError
from db_manager.migrations.history import History, folders

MODEL = """
class Item(Base):
    __tablename__ = "shop__item"
    id: Mapped[int] = mapped_column(primary_key=True)
"""


@pytest.fixture
def project(sqlite_project: Project) -> Project:
    """A project with one model."""
    sqlite_project.models(MODEL)
    return sqlite_project


def test_the_folder_is_beside_the_models(project: Project) -> None:
    """A plugin without a folder, or with an empty one, has no history."""
    assert folders(project.metadata) == {"shop": project.folder / "migrations" / "shop"}
    assert project.histories == {}
    (project.folder / "migrations" / "shop").mkdir(parents=True)
    assert project.histories == {}


def test_the_files_are_in_order_of_what_they_follow(project: Project) -> None:
    """Names say nothing about the order; a package and what editors leave are no revisions."""
    project.write("0002_b", "", after="0001_z")
    project.write("0001_z", "")
    project.write("0003_a", "", after="0002_b")
    for name in ("__init__.py", ".#0003_a.py", "notes.txt"):
        (project.folder / "migrations" / "shop" / name).write_text("x = 1\n")
    history = project.histories["shop"]
    assert history.ids == ("0001_z", "0002_b", "0003_a")
    assert history.pending("0001_z") == ("0002_b", "0003_a")
    assert history.pending(None) == history.ids
    assert history.pending("0009_newer") == ()
    assert history.next_id("Add E-Mail!") == "0004_add_e_mail"
    assert history.find("0002") == "0002_b"
    with pytest.raises(MigrationError, match="more than one revision begins so"):
        history.find("000")


def test_a_number_is_given_once(project: Project) -> None:
    """Also after revisions were deleted, and beside ids that are hashes of another project."""
    project.write("0001_a", "")
    project.write("0007_b", "", after="0001_a")
    project.write("12345678abcd", "", after="0007_b")
    assert project.histories["shop"].next_id("c") == "0008_c"


@pytest.mark.parametrize(
    ("name", "after", "said"),
    [
        ("0003_c", "0001_a", "0002_b.py and 0003_c.py both follow 0001_a: in 0003_c.py set"),
        ("0003_c", "0007_x", "0003_c.py follows '0007_x', which is in no file"),
        ("0003_c", ("0001_a", "0002_b"), "0003_c.py follows 0001_a and 0002_b, and a history is"),
        ("0003_c", "0003_c", "0003_c.py follows itself in a circle"),
        ("0003_c", None, "0001_a.py and 0003_c.py both follow nothing"),
    ],
)
def test_what_is_no_line_is_refused(
    project: Project, name: str, after: str | None, said: str
) -> None:
    """The text names the files, and what to change."""
    project.write("0001_a", "")
    project.write("0002_b", "", after="0001_a")
    project.write(name, "", after=after)
    with pytest.raises(MigrationError, match=said):
        project.histories  # noqa: B018 -- it reads the files


def test_two_files_with_one_id_are_refused(project: Project) -> None:
    """Alembic would warn, and never run one of them."""
    file = project.write("0001_a", "")
    file.with_name("copy.py").write_text(file.read_text())
    with pytest.raises(MigrationError, match=r"this id: 0001_a\.py and copy\.py; delete one"):
        project.histories  # noqa: B018 -- it reads the files


def test_an_id_that_is_computed_is_refused(project: Project) -> None:
    """It cannot be read without running the file."""
    file = project.write("0001_a", "")
    file.write_text("revision = make_id()\n")
    with pytest.raises(MigrationError, match="revision must be a string"):
        project.histories  # noqa: B018 -- it reads the files


@pytest.mark.parametrize(
    "base",
    [
        "class Own(DeclarativeBase): metadata = db_manager.Base.metadata",
        "class Own(DeclarativeBase): metadata = MetaData()",
        "class Own(DeclarativeBaseNoMeta): metadata = MetaData()",
        "Own = declarative_base(metadata=MetaData())",
    ],
)
def test_models_on_a_base_of_ones_own_have_a_folder_too(tmp_path: Path, base: str) -> None:
    """If their tables have a prefix; the others belong to nobody's migrations."""
    code = f"""
import db_manager
from sqlalchemy import Column, Integer, MetaData
from sqlalchemy.orm import DeclarativeBase, DeclarativeBaseNoMeta, declarative_base

{base}

class Item(Own):
    __tablename__ = "cellar__item"
    id = Column(Integer, primary_key=True)

class Old(Own):
    __tablename__ = "cellar_old"
    id = Column(Integer, primary_key=True)
"""
    (tmp_path / "cellar.py").write_text(code, encoding="utf-8")
    program = (
        "import cellar; from db_manager.migrations.history import folders; "
        "print(folders(cellar.Own.metadata))"
    )
    said = said_by(sys.executable, "-c", program, cwd=tmp_path)
    assert said == f"{ {'cellar': tmp_path / 'migrations' / 'cellar'} }\n"


def test_nothing_of_it_imports_alembic() -> None:
    """Who has nothing to migrate does not pay for Alembic."""
    code = "import sys, db_manager.plugin; print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"


def test_a_history_without_files_has_no_revision() -> None:
    """The first revision of a plugin is number one."""
    history = History("shop", Path("nowhere"), ())
    assert history.next_id("first") == "0001_first"
