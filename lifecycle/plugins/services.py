"""The services that plugins offer each other, by their full name `plugin:name`."""

from collections.abc import Iterator
from typing import Any

from lifecycle.errors import LifecycleError, ServiceNotFoundError


class ServiceRegistry:
    """Services by full name, read like a mapping.

    Its `repr` shows names only: a value may hold a password.
    """

    def __init__(self) -> None:
        self._services: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._services[name]
        except KeyError:
            raise ServiceNotFoundError(name, self._services) from None

    def __contains__(self, name: object) -> bool:
        return name in self._services

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._services)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the service *name*, or *default* when nobody provides it.

        Args:
            name: Full name, `plugin:name`.
            default: What to return instead.
        """
        return self._services.get(name, default)

    def names(self) -> tuple[str, ...]:
        """Return the full names of all services, sorted."""
        return tuple(sorted(self._services))

    def provide(self, name: str, value: Any) -> None:
        """Offer *value* as the service *name*.

        Args:
            name: Full name, `plugin:name`.
            value: The service.

        Raises:
            LifecycleError: The name is not of the form `plugin:name`, or is taken.
        """
        self.check_free(name)
        self._services[name] = value

    def check_free(self, name: str) -> None:
        """Raise unless *name* is well-formed and nobody provides it.

        Raises:
            LifecycleError: The name is not of the form `plugin:name`, or is taken.
        """
        plugin, colon, rest = name.partition(":")
        if not (plugin and colon and rest):
            raise LifecycleError(f"service name {name!r} is not of the form 'plugin:name'")
        if name in self._services:
            raise LifecycleError(f"service {name!r} is provided already; withdraw it first")

    def withdraw(self, name: str) -> None:
        """Take the service *name* away.

        Raises:
            ServiceNotFoundError: Nobody provides it.
        """
        self[name]
        del self._services[name]

    def __repr__(self) -> str:
        return f"<ServiceRegistry {', '.join(self.names()) or 'empty'}>"
