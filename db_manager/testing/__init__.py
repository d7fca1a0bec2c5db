"""The database part of the test kit: a sandbox for each test, and faults injected into it.

In pytest they are available as the fixtures `sandbox` and `faults` (`db_manager.pytest_plugin`).
"""

from db_manager.testing.databases import Databases
from db_manager.testing.faults import Faults, ImpossibleFaultError
from db_manager.testing.sandbox import Sandbox

__all__ = ["Databases", "Faults", "ImpossibleFaultError", "Sandbox"]
