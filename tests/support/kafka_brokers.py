"""A Kafka of three brokers in a process: the one that librdkafka brings along for tests.

It speaks Kafka's own protocol, makes each topic when it is first asked for, and keeps all of it in
memory.
"""

import os
import signal
import subprocess
import sys
from typing import Final, Self

_PATIENCE: Final = 20.0


class KafkaBrokers:
    """The brokers, for the time of a block."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = f"kafka://{self._process.stdout.readline().strip()}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def fall_silent(self) -> None:
        """Take connections and requests, and answer nothing."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until then some of its threads go on

    def speak(self) -> None:
        """Answer again, also what has come meanwhile."""
        self._process.send_signal(signal.SIGCONT)


def serve() -> None:
    """Begin the brokers, say where they are, and end when nobody listens to that any more."""
    from confluent_kafka import Producer  # noqa: PLC0415 -- in this process only

    mock = {"bootstrap.servers": "none", "test.mock.num.brokers": 3, "log_level": 4}
    producer = Producer(mock)
    found = producer.list_topics(timeout=_PATIENCE).brokers.values()
    sys.stdout.write(",".join(f"{each.host}:{each.port}" for each in found) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve()
