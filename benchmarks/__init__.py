"""Programs that measure; nothing in the project claims a number that they do not print."""

import sys
from pathlib import Path

# The server and the proxy are those of the tests.
_TESTS = str(Path(__file__).parents[1] / "tests")
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
