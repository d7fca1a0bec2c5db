"""config.toml says which plugins there are and what they are told; what is wrong is named."""

import asyncio
import contextlib
import os
import socket
import sys
from importlib.metadata import EntryPoints
from pathlib import Path
from typing import Any

import pydantic
import pytest

from lifecycle import (
    Application,
    ConfigError,
    JournalError,
    MemoryJournal,
    Plugin,
    SqliteJournal,
    replay,
)

PLUGIN = '''
import lifecycle


class Shop(lifecycle.Plugin):
    """A plugin in a module of its own."""

    name = "shop"
'''


def write(folder: Path, text: str, **modules: str) -> Path:
    """Write config.toml and *modules* into *folder*; return the path of the first."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    path = folder / "config.toml"
    path.write_text(text)
    return path


def refusal(path: Path) -> str:
    """Return the text with which the configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        Application.from_config(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("APP__GRACE", "long", "environment variable APP__GRACE: is not a number"),
        ("APP__GRACE", "-1", "[app] grace: -1.0 is out of range: 0 to 86400 (seconds)"),
        ("APP__PLUGINS", "shop", "environment variable APP__PLUGINS: is not a list in JSON, as"),
        ("APP__PLUGINS", '"shop"', "[app] plugins: Expected `array`, got `str`"),
        ("APP__NAME", "../api", "[app] name: '../api' cannot be part of a file's name; write up"),
        ("app__nmae", "api", "environment variable app__nmae: did you mean APP__NAME? There are:"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, problem: str
) -> None:
    """A variable with a wrong value is named, and so is one that looks like a misspelt one."""
    monkeypatch.setenv(name, text)
    assert refusal(write(tmp_path, "[app]\n")).startswith(problem)


def test_the_environment_overrides_the_section_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key has its variable; what else begins with APP__ is the bot's own and left alone."""
    path = write(
        tmp_path,
        '[app]\nplugins = []\njournal = "memory"\ngrace = 20\n',
        shop_of_environment=PLUGIN,
    )
    for name, text in {
        "APP__PLUGINS": '["shop_of_environment"]',
        "APP__JOURNAL": "elsewhere.sqlite3",
        "APP__GRACE": "30",
        "APP__DRAIN": "7.5",
        "APP__DOMAIN": "shop.example",
        "APP__DEBUG": "1",
    }.items():
        monkeypatch.setenv(name, text)
    app = Application.from_config(path)
    assert (list(app.plugins), app.grace, app.drain) == (["shop"], 30.0, 7.5)
    assert isinstance(app.journal, SqliteJournal)
    assert app.journal.path == tmp_path / "elsewhere.sqlite3"


async def test_file_names_the_plugins(tmp_path: Path) -> None:
    """A plugin is found by its import path beside the file, which stays off sys.path."""
    path = write(
        tmp_path,
        '[app]\nplugins = ["shop_by_path"]\njournal = "memory"\ngrace = 20\n[shop]\ncolour = "red"',
        shop_by_path=PLUGIN,
    )
    app = Application.from_config(path)
    assert list(app.plugins) == ["shop"]
    assert app.plugins["shop"].config == {"colour": "red"}
    assert (app.grace, app.drain) == (20.0, 4.0)
    assert isinstance(app.journal, MemoryJournal)
    assert str(tmp_path) not in sys.path
    async with app:
        pass


def test_journal_is_a_file_beside_the_configuration(tmp_path: Path) -> None:
    """With no word about it the journal is `lifecycle.sqlite3`, relative to config.toml."""
    app = Application.from_config(write(tmp_path, "[app]\n"))
    assert isinstance(app.journal, SqliteJournal)
    assert Path(app.journal.path) == tmp_path / "lifecycle.sqlite3"


def test_class_can_be_named(tmp_path: Path) -> None:
    """With two plugins in a module, `module:Class` says which."""
    two = PLUGIN + "\n\nclass Other(Shop):\n    name = 'other'\n"
    head = '[app]\njournal = "memory"\n'
    path = write(tmp_path, f'{head}plugins = ["shop_of_two:Other"]', shop_of_two=two)
    assert list(Application.from_config(path).plugins) == ["other"]
    path = write(tmp_path, f'{head}plugins = ["shop_of_two"]')
    assert refusal(path) == (
        "[app] plugins: module 'shop_of_two' defines not one plugin but 2 (Shop, Other); write "
        "'shop_of_two:Class'"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[app]\nplugin = []",
            "[app] plugin: unknown key (did you mean 'plugins'?); there are: plugins, name,",
        ),
        ('[app]\ngrace = "long"', "[app] grace: Expected `float`, got `str`"),
        ("[app]\ngrace = -1", "[app] grace: -1 is out of range: 0 to 86400 (seconds)"),
        ("[app]\ngrace = inf", "[app] grace: inf is out of range: 0 to 86400 (seconds)"),
        ("[app]\ngrace = nan", "[app] grace: nan is out of range: 0 to 86400 (seconds)"),
        ("[app]\ngrace = 1e400", "[app] grace: inf is out of range: 0 to 86400 (seconds)"),
        ("[app]\ndrain = -0.1", "[app] drain: -0.1 is out of range: 0 to 86400 (seconds)"),
        (
            f"[app]\ngrace = 0x{'f' * 6000}",
            f"[app] grace: 0x{'f' * 38}… is out of range: 0 to 86400 (seconds)",
        ),
        (
            f"[app]\ngrace = {10**30}",
            f"[app] grace: {10**30} is out of range: 0 to 86400 (seconds)",
        ),
        (
            "[app]\ndrain = 11",
            "[app] drain: 11 s is more than `grace`, 10 s, of which it is a part",
        ),
        (
            '[app]\nplugins = ["no_such_module"]',
            "[app] plugins: 'no_such_module' is neither an entry point of 'db_manager.plugins' ",
        ),
        ('[app]\nplugins = ["json:dumps"]', "[app] plugins: 'json:dumps' is not a subclass"),
        ("app = 3", "[app] is not a section but a int"),
        ("[shp]", "[shp]: nobody reads this section; there are: app"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, problem: str) -> None:
    """Every fault of the file is one line that names the section, the key and the fix."""
    assert refusal(write(tmp_path, text)).startswith(problem)


def test_bad_file_is_named(tmp_path: Path) -> None:
    """A file that is missing or not TOML is named by its path."""
    missing = tmp_path / "config.toml"
    assert refusal(missing) == f"{missing}: there is no such file; write one with a section [app]"
    assert refusal(write(tmp_path, "[app")).startswith(f"{missing}: Expected ']'")


def test_near_name_of_a_plugin_is_suggested(tmp_path: Path) -> None:
    """A typing error in the name of an entry point is answered with the right one."""
    text = refusal(write(tmp_path, '[app]\nplugins = ["db_manger"]'))
    assert "(did you mean 'db_manager'?)" in text


class Settings(pydantic.BaseModel, extra="forbid"):
    """The section of the plugin below."""

    password: int = 0
    size: int = 1


class Store(Plugin):
    """A plugin with a checked section of another name."""

    name = "store"
    config_model = Settings
    config_section = "storage"


def test_section_is_checked_by_the_model() -> None:
    """A plugin gets its model, with the model's own values when there is no section."""
    assert Application([Store]).plugins["store"].config == Settings()
    app = Application([Store], config={"storage": {"size": 3}})
    assert app.plugins["store"].config == Settings(size=3)


def test_refused_section_shows_keys_but_never_values() -> None:
    """Each wrong key is named; the value may be a password, so neither text nor chain has it."""
    section = {"password": "hunter2", "sise": "hunter3"}
    with pytest.raises(ConfigError) as caught:
        Application([Store], config={"storage": section})
    assert str(caught.value).splitlines() == [
        "[storage] password: Input should be a valid integer, unable to parse string as an integer",
        "[storage] sise: unknown key (did you mean 'size'?); there are: password, size",
    ]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


class Bounded(pydantic.BaseModel):
    """Numbers with every kind of bound."""

    above: float = pydantic.Field(1, gt=0)
    below: int = pydantic.Field(1, lt=10)
    between: float = pydantic.Field(1, gt=0, le=10)
    within: int = pydantic.Field(1, ge=0, le=10)
    least: int = pydantic.Field(1, ge=1)
    most: int = pydantic.Field(1, le=10)
    mark: str = pydantic.Field("a", max_length=3)


class Measured(Plugin):
    """A plugin whose section has bounds."""

    name = "measured"
    config_model = Bounded


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("above", 0, "0 is out of range: above 0"),
        ("below", 10, "10 is out of range: below 10"),
        ("between", 0, "0 is out of range: above 0, up to 10"),
        ("within", 11, "11 is out of range: 0 to 10"),
        ("least", 0, "0 is out of range: 1 or more"),
        ("most", 11, "11 is out of range: up to 10"),
        pytest.param(
            *("most", int("f" * 6000, 16), f"0x{'f' * 38}… is out of range: up to 10"), id="huge"
        ),
        ("most", 10**50, f"1{'0' * 39}… is out of range: up to 10"),
        ("most", "123456789", "123456789 is out of range: up to 10"),
        (
            "most",
            "hunter2",
            "Input should be a valid integer, unable to parse string as an integer",
        ),
        ("mark", "hunter2", "String should have at most 3 characters"),
    ],
)
def test_a_number_is_refused_with_its_bounds(key: str, value: object, said: str) -> None:
    """The range that is said has the number that is allowed, and not the one that is not."""
    with pytest.raises(ConfigError) as caught:
        Application([Measured], config={"measured": {key: value}})
    assert str(caught.value) == f"[measured] {key}: {said}"


OBSERVER = """
seen = []


def observe(app, section):
    seen.append(("begin", section, [plugin.state for plugin in app.plugins.values()]))
    subscription = app.bus.subscribe(">", lambda event: seen.append(event.topic))

    async def close():
        subscription.cancel()
        seen.append("end")

    return close
"""


async def test_observer_sees_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section of an observer calls its entry point before anything loads, and again each run."""
    installed = tmp_path / "watch-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: watch\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(
        "[db_manager.observers]\nwatch = watch_module:observe\n"
        "[db_manager.plugins]\nshop = shop_by_entry_point:Shop\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = write(
        tmp_path,
        '[app]\nplugins = ["shop"]\njournal = ""\n[watch]\nlevel = "all"',
        watch_module=OBSERVER,
        shop_by_entry_point=PLUGIN,
    )
    app = Application.from_config(path)
    seen: list[Any] = sys.modules["watch_module"].seen
    assert seen == []
    for _ in range(2):
        async with app:
            pass
        assert seen[0] == ("begin", {"level": "all"}, ["unloaded"])
        assert seen[1] == "plugin.loading"
        assert seen[-2:] == ["plugin.unloaded", "end"]
        seen.clear()
    await asyncio.sleep(0)
    assert seen == []


async def test_observers_that_fail_do_not_hide_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An observer that cannot begin stops the start; one that cannot end is a warning."""
    installed = tmp_path / "bad-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(
        "[db_manager.observers]\nends = bad_observers:ends\nbegins = bad_observers:begins\n"
        "cancels = bad_observers:cancels\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bad_observers.py").write_text(BAD_OBSERVERS)
    app = Application([], config={"ends": {}, "cancels": {}})
    await app.start()
    await app.unload()
    assert caplog.messages == ["an observer did not end well"] * 2
    assert "OSError: raised in bad_observers:" in caplog.text
    assert "hunter2" not in caplog.text
    assert "CancelledError: raised in bad_observers:" in caplog.text
    app = Application([], config={"ends": {}, "begins": {"port": 1}})
    with pytest.raises(ConfigError, match="port 1"):
        await app.start()
    assert list(app.journal.entries()) == []


def test_an_observer_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said with its section and its place, and so are the other faults."""
    installed = tmp_path / "lost-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lost\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[db_manager.observers]\nlost = no_module:observe")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        Application([], config={"lost": {}, "nobody": {}})
    nobody, lost = str(caught.value).splitlines()
    assert nobody.startswith("[nobody]: nobody reads this section")
    assert lost == (
        "[lost]: what reads it, no_module:observe, cannot be imported: ModuleNotFoundError: "
        "No module named 'no_module'; fix that, or remove the section"
    )


def test_packages_are_looked_through_for_a_section_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody has to be found, a start does not read what every package says of itself."""
    looks: list[str] = []

    def look(*, group: str) -> EntryPoints:
        looks.append(group)
        return EntryPoints()

    monkeypatch.setattr("importlib.metadata.entry_points", look)
    Application([], config={"app": {}})
    assert looks == []
    with pytest.raises(ConfigError, match="nobody reads this section"):
        Application([], config={"nobody": {}})
    assert looks == ["db_manager.observers"]


BAD_OBSERVERS = """
import asyncio

import lifecycle


def cancels(app, section):
    async def close():
        raise asyncio.CancelledError

    return close


def ends(app, section):
    def close():
        raise OSError("user typed: hunter" + str(2))

    return close


def begins(app, section):
    raise lifecycle.ConfigError(f"port {section['port']}")
"""


async def test_next_process_learns_where_the_last_one_died(tmp_path: Path) -> None:
    """The journal beside config.toml tells the next run what the dead one did last."""
    path = write(tmp_path, '[app]\nplugins = ["shop_that_dies"]', shop_that_dies=PLUGIN)
    dead = Application.from_config(path)
    await dead.start()
    dead.journal.close(clean=False)
    seen: list[Any] = []
    app = Application.from_config(path)
    app.bus.subscribe("app.crashed", seen.append)
    async with app:
        assert replay(app.journal.entries()) == {"shop": "started"}
    assert (seen[0].run, seen[0].last_topic) == (1, "app.started")
    async with app:
        assert len(seen) == 1
    with pytest.raises(ExceptionGroup, match="not without errors"):
        await dead.unload()


def deep(depth: int) -> dict[str, str]:
    """Return TOML of some depth, in each way it can be written."""
    keys = ".".join(["a"] * depth)
    return {
        "arrays": f"[app]\nplugins = {'[' * depth}{']' * depth}",
        "open arrays": f"x = {'[' * depth}",
        "inline tables": f"x = {'{a = ' * depth}1{'}' * depth}",
        "both": f"x = {'[{a = ' * depth}1{'}]' * depth}",
        "dotted keys": f"[app]\n{keys} = 1",
        "dotted section": f"[{keys}]\nb = 1",
        "dotted list": f"[[{keys}]]\nb = 1",
    }


@pytest.mark.parametrize("depth", [1000, 4000])
@pytest.mark.parametrize("way", deep(1))
def test_nested_without_end(tmp_path: Path, way: str, depth: int) -> None:
    """However deep a file is nested, it is refused with a ConfigError."""
    with pytest.raises(ConfigError) as caught:
        Application.from_config(write(tmp_path, deep(depth)[way]))
    assert len(str(caught.value)) < 1000 + 2 * depth


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket", "huge", "latin-1", "loop"])
def test_what_is_no_configuration(tmp_path: Path, kind: str) -> None:
    """What cannot be read as a configuration is refused at once, and the text says what it is."""
    path = tmp_path / "c.toml"
    said = {
        "pipe": "is a pipe, not a file",
        "folder": "is a folder, not a file",
        "device": "is a device, not a file",
        "socket": "is a socket, not a file",
        "huge": "bytes; more than 1048576 are no configuration",
        "latin-1": "is not UTF-8 at byte 8; save it as UTF-8",
        "loop": "Too many levels of symbolic links",
    }[kind]
    with contextlib.ExitStack() as stack:
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "device":
                path = Path("/dev/zero")
            case "socket":
                stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
            case "huge":
                with path.open("wb") as file:
                    file.truncate(2**33)
            case "latin-1":
                path.write_bytes(b"[app]\n# \xe9")
            case "loop":
                path.symlink_to(path)
        with pytest.raises(ConfigError) as caught:
            Application.from_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_a_mark_at_the_begin_is_no_part_of_it(tmp_path: Path) -> None:
    """A file that an editor begins with the mark of UTF-8 is read like any other."""
    path = tmp_path / "config.toml"
    path.write_bytes(b'\xef\xbb\xbf[app]\njournal = "memory"\n')
    assert Application.from_config(path).plugins == {}


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A journal that cannot be made says which key gives it another place."""
    for place in ("/proc/journal.sqlite3", str(tmp_path / "none" / "journal.sqlite3")):
        app = Application.from_config(write(tmp_path, f'[app]\njournal = "{place}"\n'))
        with pytest.raises(JournalError) as caught:
            await app.start()
        assert str(caught.value).startswith(f"journal {place}: cannot open it: ")
        assert '[app] journal = "/var/lib/bot/journal.sqlite3"' in str(caught.value)
