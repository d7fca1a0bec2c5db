import pytest

from lifecycle.application import Application
from lifecycle.errors import ConfigError
from observability.setup import observe


def test_a_wrong_key_is_named_with_the_keys_that_exist() -> None:
    """A typo in [observability] is refused with the keys there are."""
    with pytest.raises(ConfigError, match=r"\[observability\] lvl: .*its keys are: level, format"):
        observe(Application([]), {"lvl": "info"})


async def test_the_section_switches_logs_on(capsys: pytest.CaptureFixture[str]) -> None:
    """With the section in the configuration the run is logged from its begin to its last event."""
    config = {"observability": {"format": "json"}}
    async with Application([], config=config):
        pass
    topics = [line.split('"event":"')[1].split('"')[0] for line in capsys.readouterr().err.split()]
    assert topics == ["app.started", "app.stopping", "app.stopped"]
