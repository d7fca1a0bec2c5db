"""The section of a database in config.toml, overridden by the environment; no SQLAlchemy here."""

import difflib
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lifecycle.errors import ConfigError

#: The section of a bot's first database; that of another one has the name of its plugin.
FIRST_SECTION: Final = "database"
FILE_SUFFIX = "_FILE"

#: Connections of a pool. PostgreSQL allows 262,143 in all, and a process runs out of file
#: descriptors long before that.
MOST_CONNECTIONS = 10_000
#: Limits of every timeout, in seconds. Servers count in milliseconds: less would be rounded to 0,
#: which switches a timeout off. More than a day is the same as no timeout.
SHORTEST, LONGEST = 0.001, 86_400

#: The keys with a number as value.
NUMBERS = (
    *("port", "pool_size", "max_overflow", "pool_timeout", "pool_recycle", "connect_timeout"),
    *("statement_timeout", "lock_timeout", "idle_in_transaction_timeout", "exit_timeout"),
    *("slow_unit", "migrate_timeout"),
)

Seconds = Annotated[float, Field(ge=SHORTEST, le=LONGEST)]


class DatabaseConfig(BaseSettings):
    """How to reach the database, and how long to wait for it. Times are in seconds.

    The environment variable `DATABASE__POOL_SIZE` overrides `pool_size` of the file, and
    `DATABASE__PASSWORD_FILE` is the path of a file with the value, as for Docker secrets. For
    another database they begin with the name of its section: `ANALYTICS__POOL_SIZE`.
    """

    #: The section of config.toml.
    section: ClassVar[str] = FIRST_SECTION

    model_config = SettingsConfigDict(
        env_prefix="DATABASE__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    driver: str = Field("sqlite+aiosqlite", description="SQLAlchemy's name of an async driver")
    user: str | None = Field(None, description="name of the database role")
    password: SecretStr | None = Field(None, description="better kept out of the file")
    host: str | None = Field(None, description="name, address, or directory of the Unix socket")
    port: int | None = Field(None, ge=1, le=65535, description="TCP port")
    database: str | None = Field(
        None,
        description="name of the database, or path of the SQLite file, relative to config.toml",
    )
    url: SecretStr | None = Field(
        None,
        description="instead of the keys above: driver://user:password@host:port/database, "
        "or postgresql://… for an installed driver",
    )
    replica: SecretStr | None = Field(
        None, description='URL of a read replica, for units with `read_only="replica"`'
    )

    migrate: Literal["apply", "check", "off"] = Field(
        "apply",
        description="at start: apply migrations; check refuses to start while one is pending",
    )
    migrate_timeout: Seconds = Field(
        300.0,
        description="longest wait for migrations of another process, and for locks of our own",
    )
    create_tables: bool = Field(default=True, description="create missing tables at start")

    drift: Literal["refuse", "warn", "ignore"] = Field(
        "refuse",
        description="at start, when a table or column of a model is missing: refuse to start, "
        "only warn as of other differences, or do not look",
    )

    pool_size: int = Field(10, ge=1, le=MOST_CONNECTIONS, description="connections kept open")
    max_overflow: int = Field(
        0, ge=0, le=MOST_CONNECTIONS, description="connections that may be opened beyond pool_size"
    )
    pool_timeout: Seconds = Field(5.0, description="longest wait for a free connection")
    pool_recycle: Seconds = Field(1800.0, description="age at which a connection is replaced")
    pre_ping: bool = Field(
        default=False,
        description="ping at every checkout; only for networks that drop connections silently",
    )
    connect_timeout: Seconds = Field(5.0, description="longest wait for a new connection")

    statement_timeout: Seconds = Field(15.0, description="longest statement; not on SQLite")
    lock_timeout: Seconds = Field(5.0, description="longest wait for a lock, including SQLite's")
    idle_in_transaction_timeout: Seconds = Field(
        30.0, description="longest pause inside a transaction (PostgreSQL)"
    )
    exit_timeout: Seconds = Field(
        5.0, description="longest wait for COMMIT or ROLLBACK; then the outcome is unknown"
    )
    slow_unit: Seconds = Field(1.0, description="age of an open unit at which a warning is logged")
    sqlite_synchronous: Literal["NORMAL", "FULL"] = Field(
        "NORMAL",
        description="NORMAL survives kill -9; FULL also power loss, at one fsync per commit",
    )
    resolvable: bool = Field(
        default=False,
        description="keep each unit's transaction id for `resolve`; costs a round trip",
    )
    nested: Literal["refuse", "join", "savepoint"] = Field(
        "refuse",
        description="a unit inside of a unit: refuse it, join it to the outer one, or savepoint",
    )

    tls: Literal["auto", "verify", "require", "disable"] = Field(
        "auto",
        description="auto verifies every remote host; require encrypts without verifying",
    )
    tls_ca: Path | None = Field(
        None, description="file with the certificate of the CA, relative to config.toml"
    )
    pgbouncer: bool = Field(
        default=False,
        description="PgBouncer in transaction mode stands before the server, which sets timeouts",
    )
    application_name: str = Field("db_manager", description="shown in pg_stat_activity")

    engine_options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="passed to create_async_engine unchanged"
    )
    connect_args: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="passed to the driver's connect unchanged"
    )

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """What paths are relative to; None is the working directory."""
        return self._folder

    def relative_to(self, folder: Path) -> Self:
        """Return the same configuration with paths relative to *folder*, that of config.toml."""
        placed = self.model_copy(update={"tls_ca": self.tls_ca and folder / self.tls_ca})
        placed._folder = folder  # noqa: SLF001 -- its own class
        return placed

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 -- it is this class
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- pydantic-settings passes it
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment override the file."""
        return _Environment(cls), init_settings

    @field_validator(*NUMBERS, mode="before")
    @classmethod
    def _refuse_truth(cls, value: object) -> object:
        if isinstance(value, bool):  # pydantic accepts true as 1
            raise PydanticCustomError("number", "Input should be a number, not true or false")
        return value

    @model_validator(mode="after")
    def _check_pieces(self) -> Self:
        if self.url is None and not self.driver.startswith("sqlite") and not self.database:
            raise ConfigError(
                f"[{self.section}] database: driver {self.driver!r} needs a database name"
            )
        if self.tls_ca is not None and self.tls in {"disable", "require"}:
            raise ConfigError(
                f"[{self.section}] tls_ca: is not used with tls = {self.tls!r}; set tls = 'verify'"
            )
        return self


def env_prefix(section: str) -> str:
    """Return what the environment variables of *section* begin with: `DATABASE__`."""
    return re.sub(r"\W", "_", section).upper() + "__"


@cache
def config_of(section: str) -> type[DatabaseConfig]:
    """Return the model of *section*: its variables and its errors have the section's name.

    Args:
        section: Name of the section in config.toml.
    """
    if section == FIRST_SECTION:
        return DatabaseConfig
    prefix = SettingsConfigDict(env_prefix=env_prefix(section))
    body = {"section": section, "model_config": prefix, "__module__": __name__}
    annotations = {"section": ClassVar[str]}
    name = f"{section.title()}Config"
    return type(name, (DatabaseConfig,), {**body, "__annotations__": annotations})


def variables_of(section: str) -> dict[str, str]:
    """Return the environment variables of *section*, with their names in capital letters.

    Args:
        section: Name of the section in config.toml.
    """
    prefix = env_prefix(section)
    variables = {name.upper(): value for name, value in os.environ.items()}
    return {name: value for name, value in variables.items() if name.startswith(prefix)}


class _Environment(PydanticBaseSettingsSource):
    """Reads `DATABASE__X` and `DATABASE__X_FILE`, and refuses an unknown `DATABASE__` variable.

    pydantic-settings ignores an unknown variable even with `extra="forbid"`: a typo in the name
    of a password variable would otherwise go unnoticed.
    """

    def __init__(self, settings_cls: type[DatabaseConfig]) -> None:
        super().__init__(settings_cls)
        self._prefix = env_prefix(settings_cls.section)
        self._known = {self._prefix + name.upper() for name in settings_cls.model_fields}
        self._variables = variables_of(settings_cls.section)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = self._prefix + field_name.upper()
        text = self._variables.get(name)
        if text is None and (path := self._variables.get(name + FILE_SUFFIX)) is not None:
            text = _read(name + FILE_SUFFIX, path)
        if text is None or not self.field_is_complex(field):
            return text, field_name, False
        try:
            return json.loads(text), field_name, True
        except ValueError:
            raise ConfigError(f"{name}: is not JSON") from None

    def __call__(self) -> dict[str, Any]:
        for name in self._variables:
            if name.removesuffix(FILE_SUFFIX) not in self._known:
                close = difflib.get_close_matches(name, self._known, n=1)
                fix = f"did you mean {close[0]}?" if close else f"known: {sorted(self._known)}"
                raise ConfigError(f"unknown environment variable {name}; {fix}")
        fields = self.settings_cls.model_fields
        values = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def _read(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{variable}: cannot read {path!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{variable}: cannot read {path!r}: it is not UTF-8") from None
