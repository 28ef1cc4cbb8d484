"""Which hosts may reach this host's hypervisor: the sources of incoming migrations, each for the time of its migration.

The agent writes admissions, and the migration gateway reads them. They are in memory (/run): a restart of either
process keeps them, a restart of the host ends them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from ostler_agent.files import write_file

DIRECTORY = Path("/run/ostler/migrations")

log = structlog.get_logger(__name__)


def seconds_since_boot() -> float:
    """A clock that all processes share and that does not change with the date."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Source:
    """The host that sends a VM here. host_id: UUID; admitted_s: how long it may reach the hypervisor, at most."""

    host_id: str
    admitted_s: float


@dataclass(frozen=True)
class _Admission:
    """The content of an admission's file. end_s: see `seconds_since_boot`."""

    host_id: str
    end_s: float


class Admissions:
    """The admissions: one file for each incoming migration, named by its VM."""

    def __init__(self, directory: Path = DIRECTORY, now: Callable[[], float] = seconds_since_boot) -> None:
        self._directory = directory
        self._now = now

    def admit(self, vm_id: str, source: Source) -> None:
        """Admits the source of an incoming migration; replaces an earlier admission for this VM. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        admission = _Admission(source.host_id, self._now() + source.admitted_s)
        write_file(self._file(vm_id), json.dumps(asdict(admission)).encode())

    def remove(self, vm_id: str) -> None:
        """Removes the admission for a VM. Idempotent."""
        self._file(vm_id).unlink(missing_ok=True)

    def admits(self, host_id: str) -> bool:
        """Whether a migration from this host is under way. A file that cannot be read admits nobody."""
        return any(self._admission(file) == host_id for file in self._directory.glob("*.json"))

    def _admission(self, file: Path) -> str | None:
        """The host that a file admits now."""
        try:
            admission = _Admission(**json.loads(file.read_text()))
            return admission.host_id if self._now() < admission.end_s else None
        except FileNotFoundError:
            return None  # removed meanwhile
        except (OSError, ValueError, TypeError) as error:
            log.error("cannot read an admission", file=str(file), reason=str(error))
            return None

    def _file(self, vm_id: str) -> Path:
        return self._directory / f"{vm_id}.json"
