"""The test kit that needs a database: a sandbox for each test, and faults in it.

With pytest they are the fixtures `sandbox` and `faults` (`db_manager.pytest_plugin`).
"""

from db_manager.testing.databases import Databases
from db_manager.testing.faults import Faults, ImpossibleFaultError
from db_manager.testing.sandbox import Sandbox

__all__ = ["Databases", "Faults", "ImpossibleFaultError", "Sandbox"]
