"""QMP: gives commands to a QEMU program of our own over its Unix socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ostler_common.errors import AbortedError, DeadlineExceededError

_TIMEOUT_S = 60.0
_MAX_ANSWER_BYTES = 8 << 20


class CommandFailedError(AbortedError):
    """QEMU refuses a command."""

    def __init__(self, command: str, message: str) -> None:
        super().__init__(f"QEMU refuses {command}: {message}", "QEMU_REFUSED", {"command": command})
        self.said = message


class Monitor:
    """An open connection. Not thread-safe."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def execute(self, command: str, **arguments: object) -> object:
        """What the command returns; `_` in a name stands for `-`.

        Raises CommandFailedError, DeadlineExceededError COMMAND_TIMEOUT, AbortedError QEMU_ENDED.
        """
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            self._connection.sendall(json.dumps({"execute": command, "arguments": given}).encode() + b"\n")
            while True:
                answer = self._read()
                if "return" in answer:
                    return answer["return"]
                if isinstance(error := answer.get("error"), dict):
                    raise CommandFailedError(command, str(error.get("desc", "no reason given")))
        except TimeoutError as failure:
            raise DeadlineExceededError(f"QEMU does not answer {command}", "COMMAND_TIMEOUT") from failure
        except OSError as failure:
            raise _ended() from failure

    def _read(self) -> dict[str, object]:
        """The next line: an answer or an event."""
        line = self._file.readline(_MAX_ANSWER_BYTES)
        if not line.endswith(b"\n"):
            raise _ended()
        message: dict[str, object] = json.loads(line)
        return message


def _ended() -> AbortedError:
    return AbortedError("QEMU ended while it copied a disk; try again", "QEMU_ENDED")


@contextmanager
def connected(path: Path) -> Iterator[Monitor]:
    """A connection, ready for commands, while the block lasts. path: of a socket that a program listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except OSError as error:
            raise _ended() from error
        monitor = Monitor(connection)
        monitor.execute("qmp_capabilities")
        yield monitor
