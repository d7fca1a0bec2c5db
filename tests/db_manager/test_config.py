"""The section [database]: file, environment, files of secrets, and refusals that show no value."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from db_manager.config import NUMBERS, DatabaseConfig
from db_manager.engine.create import create_engine
from db_manager.errors import ConfigError
from db_manager.plugin import DatabasePlugin
from lifecycle.application import Application

CANARY = "c4n4ry-in-the-config"
NOT_A_NUMBER = (
    "[database] pool_timeout: Input should be a valid number, unable to parse string as a number "
    "(longest wait for a free connection)"
)


def refusal(**section: Any) -> str:
    """Return what a bot with this section [database] says instead of beginning."""
    with pytest.raises(ConfigError) as caught:
        Application([DatabasePlugin], config={"app": {"journal": "memory"}, "database": section})
    return str(caught.value)


def test_nothing_said_is_sqlite_beside_the_bot() -> None:
    """Without a section the database is a SQLite file and tables are created."""
    config = DatabaseConfig()
    assert (config.driver, config.create_tables) == ("sqlite+aiosqlite", True)


def test_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable DATABASE__X overrides the key x, also one that is no text."""
    monkeypatch.setenv("DATABASE__POOL_SIZE", "7")
    monkeypatch.setenv("DATABASE__CONNECT_ARGS", '{"ssl": false}')
    config = DatabaseConfig(pool_size=3, pool_timeout=2.0)
    assert (config.pool_size, config.pool_timeout) == (7, 2.0)
    assert config.connect_args == {"ssl": False}


@pytest.mark.parametrize("name", ["DATABASE__PASSWORD_FILE", "database__password_file"])
def test_a_file_holds_the_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """DATABASE__PASSWORD_FILE names a file; its last line break is not part of the password."""
    (tmp_path / "secret").write_text(f"{CANARY}\n")
    monkeypatch.setenv(name, str(tmp_path / "secret"))
    config = DatabaseConfig()
    assert config.password is not None
    assert config.password.get_secret_value() == CANARY


def test_a_file_may_hold_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key that is a table is JSON in a file, as it is in the environment."""
    (tmp_path / "arguments").write_text('{"passfile": "x"}')
    monkeypatch.setenv("DATABASE__CONNECT_ARGS_FILE", str(tmp_path / "arguments"))
    assert DatabaseConfig().connect_args == {"passfile": "x"}


def test_the_variable_itself_wins_over_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With both, DATABASE__USER counts and DATABASE__USER_FILE does not."""
    (tmp_path / "user").write_text("from_file")
    monkeypatch.setenv("DATABASE__USER_FILE", str(tmp_path / "user"))
    monkeypatch.setenv("DATABASE__USER", "from_variable")
    assert DatabaseConfig(user="from_section").user == "from_variable"


def test_an_unreadable_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of a secret that is not there is refused by name."""
    path = tmp_path / "nothing"
    monkeypatch.setenv("DATABASE__PASSWORD_FILE", str(path))
    assert refusal() == (
        f"DATABASE__PASSWORD_FILE: cannot read {str(path)!r}: No such file or directory"
    )


def test_a_binary_file_is_refused_without_its_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that is not UTF-8 is refused by name, its bytes are not shown."""
    path = tmp_path / "binary"
    path.write_bytes(b"\xff" + CANARY.encode())
    monkeypatch.setenv("DATABASE__PASSWORD_FILE", str(path))
    assert refusal() == f"DATABASE__PASSWORD_FILE: cannot read {str(path)!r}: it is not UTF-8"


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in the name of a variable is refused with the name that was meant."""
    monkeypatch.setenv("DATABASE__PASWORD", CANARY)
    text = refusal()
    assert (
        text == "unknown environment variable DATABASE__PASWORD; did you mean DATABASE__PASSWORD?"
    )


def test_an_unknown_key_is_refused() -> None:
    """A typo in the name of a key is refused, its value is not shown."""
    text = refusal(pasword=CANARY)
    assert text.startswith("[database] pasword: ")
    assert CANARY not in text


@pytest.mark.parametrize(
    ("section", "text"),
    [
        (
            {"pool_timeout": CANARY},
            NOT_A_NUMBER,
        ),
        (
            {"port": 70000},
            "[database] port: 70000 is out of range: 1 to 65535 (TCP port)",
        ),
        (
            {"pool_size": 0},
            ("[database] pool_size: 0 is out of range: 1 to 10000 (connections kept open)"),
        ),
        (
            {"password": 5},
            ("[database] password: Input should be a valid string (better kept out of the file)"),
        ),
        (
            {"tls": CANARY},
            (
                "[database] tls: Input should be 'auto', 'verify', 'require' or 'disable' "
                "(auto verifies every remote host; require encrypts without verifying)"
            ),
        ),
        (
            {"engine_options": CANARY},
            (
                "[database] engine_options: Input should be a valid dictionary "
                "(passed to create_async_engine unchanged)"
            ),
        ),
        (
            {"driver": "postgresql+asyncpg", "password": CANARY},
            "[database] database: driver 'postgresql+asyncpg' needs a database name",
        ),
        (
            {"tls": "require", "tls_ca": "ca.pem", "password": CANARY},
            "[database] tls_ca: is not used with tls = 'require'; set tls = 'verify'",
        ),
    ],
)
def test_a_wrong_value_is_named_by_its_key(section: dict[str, Any], text: str) -> None:
    """A wrong type or value is refused in words that name the key; a number may be shown."""
    assert refusal(**section) == text


def test_a_wrong_variable_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that should hold JSON and does not is named, its text is not shown."""
    monkeypatch.setenv("DATABASE__CONNECT_ARGS", f"{{password: {CANARY}")
    assert refusal() == "DATABASE__CONNECT_ARGS: is not JSON"


def test_every_mistake_is_reported_at_once() -> None:
    """Two wrong keys are two lines of one error."""
    lines = refusal(port="x", pool_size="y").splitlines()
    assert [line.split(":")[0] for line in lines] == ["[database] port", "[database] pool_size"]


def test_validation_errors_carry_no_value() -> None:
    """Also pydantic's own error, for those who build the model themselves, hides the value."""
    with pytest.raises(ValidationError) as caught:
        DatabaseConfig(port=CANARY)
    assert CANARY not in str(caught.value)


def test_the_model_shows_no_secret() -> None:
    """A repr of the configuration hides password, url and what is passed to the driver."""
    config = DatabaseConfig(
        url=f"postgresql+asyncpg://bot:{CANARY}@localhost/bot",
        password=CANARY,
        connect_args={"password": CANARY},
        engine_options={"query_cache_size": CANARY},
    )
    assert CANARY not in f"{config!r} {config}"
    assert "DATABASE__PASSWORD" not in os.environ


#: Every key that is a number, with what it may be at least and at most.
RANGES: dict[str, Any] = {
    "port": (1, 65535),
    "pool_size": (1, 10_000),
    "max_overflow": (0, 10_000),
    **dict.fromkeys(
        (
            *("pool_timeout", "pool_recycle", "connect_timeout", "statement_timeout"),
            *("lock_timeout", "idle_in_transaction_timeout", "exit_timeout", "slow_unit"),
            "migrate_timeout",
        ),
        (0.001, 86400),
    ),
}
WILD = [math.inf, -math.inf, math.nan, 1e308, 10**30, -(10**30), -1, 86401]


def test_every_number_has_its_range() -> None:
    """No number of the section is without bounds, and no other key is among them."""
    numbers = {
        name
        for name, field in DatabaseConfig.model_fields.items()
        if field.annotation in {int, float, int | None}
    }
    assert numbers == set(RANGES) == set(NUMBERS)


@pytest.mark.parametrize("key", RANGES)
@pytest.mark.parametrize("value", WILD)
@pytest.mark.parametrize("place", ["file", "environment"])
def test_a_number_out_of_range_is_named_with_it(
    key: str, value: float, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no server or timer could take is refused by key, value and range, wherever it stands."""
    low, high = RANGES[key]
    section = {key: value}
    if place == "environment":
        monkeypatch.setenv(f"DATABASE__{key.upper()}", str(value))
        section = {}
    if place == "environment" and low in {0, 1} and not isinstance(value, int):
        assert refusal(**section).startswith(f"[database] {key}: Input should be a valid integer")
    else:
        said = refusal(**section)
        shown = str(value)[:40]
        assert said.startswith(f"[database] {key}: {shown} is out of range: {low} to {high} (")


@pytest.mark.parametrize("key", RANGES)
def test_the_ends_of_a_range_are_in_it(key: str) -> None:
    """Both ends are accepted, and an engine can be made of them; what is below is refused."""
    for value in RANGES[key]:
        section: dict[str, Any] = {key: value, "host": "localhost", "database": "x"}
        for driver in ("postgresql+asyncpg", "postgresql+psycopg", "mysql+asyncmy"):
            create_engine(DatabaseConfig(driver=driver, **section))
    low = RANGES[key][0]
    below = low - 1 if isinstance(low, int) else low / 2
    assert "is out of range" in refusal(**{key: below})
    assert "not true or false" in refusal(**{key: True})
