"""Debian's own cloud-init, as a process that answers questions: `cloud_init_reader.py` under the system's Python."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READER = Path(__file__).with_name("cloud_init_reader.py")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}  # not this test's PYTHONPATH


@dataclass(frozen=True)
class Found:
    """A part as it reaches cloud-init's handlers."""

    content_type: str
    filename: str
    merge: str
    content: bytes


class CloudInit:
    """Asks the reader, one line a question."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def parts(self, user_data: bytes) -> list[Found]:
        """What its UserDataProcessor makes of user data."""
        found = self._ask({"user_data": base64.b64encode(user_data).decode()})
        return [
            Found(part["type"], part["filename"], part["merge"], base64.b64decode(part["content"])) for part in found
        ]

    def boot(self, files: Mapping[str, bytes]) -> dict[str, Any]:
        """What its first boot over the files of a seed leaves behind."""
        answer = self._ask({"seed": {name: base64.b64encode(content).decode() for name, content in files.items()}})
        assert isinstance(answer, dict)
        assert answer["found"], "cloud-init finds no seed"
        answer["scripts"] = {name: base64.b64decode(content) for name, content in answer["scripts"].items()}
        return answer

    def _ask(self, question: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the reader ended; its complaint is above"
        return json.loads(line)


@contextmanager
def cloud_init_process() -> Iterator[CloudInit]:
    """The reader, for as long as the block lasts."""
    process = subprocess.Popen(
        ["/usr/bin/python3", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    with process:
        yield CloudInit(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
