"""The journal of jobs: one JSON file per operation, replaced atomically, without secrets."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # noqa: F401 (Any-typed details are read back only when this is loaded)
from ostler.types.v1 import job_pb2
from ostler_common.redaction import redacted

from ostler_agent.files import write_file

M = TypeVar("M", bound=Message)


@dataclass
class Record:
    """One job.

    digest: of the request without its secrets and its operation; request: the same as JSON; facts: what the job stored
    for its recovery; state: a name of JobUpdate.State; final: its final JobUpdate as JSON, empty while it runs.
    """

    id: str
    attempt: int
    kind: str
    digest: str
    request: dict[str, Any]
    state: str = "RUNNING"
    facts: dict[str, str] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)
    start_time: float = 0.0
    end_time: float = 0.0

    @classmethod
    def begin(cls, operation_id: str, attempt: int, kind: str, request_digest: str, request: Message) -> Record:
        as_json = json_format.MessageToDict(request)
        return cls(operation_id, attempt, kind, request_digest, as_json, start_time=time.time())

    def end(self, final: job_pb2.JobUpdate) -> None:
        self.state = job_pb2.JobUpdate.State.Name(final.state)
        self.final = json_format.MessageToDict(final)
        self.end_time = time.time()

    def update(self) -> job_pb2.JobUpdate:
        """The recorded final update."""
        return json_format.ParseDict(self.final, job_pb2.JobUpdate(), ignore_unknown_fields=True)

    def request_as(self, kind: type[M]) -> M:
        """The request, without its secrets."""
        return json_format.ParseDict(self.request, kind(), ignore_unknown_fields=True)


class Journal:
    """The records in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self, record: Record) -> None:
        """Writes a record. After a machine crash, either this or the previous version exists (recovery resolves a job
        that still looks running)."""
        with self._lock:
            write_file(self._path(record.id), json.dumps(asdict(record)).encode())

    def load(self, operation_id: str) -> Record | None:
        try:
            return Record(**json.loads(self._path(operation_id).read_text()))
        except FileNotFoundError:
            return None

    def ids(self) -> Iterator[str]:
        for path in sorted(self._directory.glob("*.json")):
            yield path.stem

    def prune(self, older_than: float, keep: Collection[str]) -> None:
        """Removes records last written before a time (seconds since the epoch), except those of `keep`."""
        for path in self._directory.iterdir():
            if path.stem not in keep and path.stat().st_mtime < older_than:
                path.unlink(missing_ok=True)

    def _path(self, operation_id: str) -> Path:
        # Not with_suffix(): an id may contain dots.
        return self._directory / f"{operation_id}.json"


def digest(request: Message) -> str:
    """SHA-256 of a request, hex, without its secrets and its operation (whose attempt number changes)."""
    copy = redacted(request)
    if "operation" in copy.DESCRIPTOR.fields_by_name:
        copy.ClearField("operation")
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest()
