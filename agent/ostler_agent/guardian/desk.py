"""The files through which agent and guardian talk. They are in memory (/run): the guardian must never wait for a disk.

`wish.json`: what the agent wants guarded; also in the agent's state directory, for the next boot. `grant.json`: the
stamp that the control plane sent back. `status.json`: how the guardian stands, which it reads again after its restart.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from ostler_agent.files import write_file
from ostler_agent.guardian.lease import Place

DIRECTORY = Path("/run/ostler/guardian")


class State(StrEnum):
    """How a guardian stands. OFF: it has nothing to guard; STARTING: its lease is not on the storage yet; GUARDING;
    ENDED: it has ended the VMs, and ends every further one until the control plane gives the host back; ABSENT: nobody
    writes the status, so no guardian runs."""

    OFF = "off"
    STARTING = "starting"
    GUARDING = "guarding"
    ENDED = "ended"
    ABSENT = "absent"


@dataclass(frozen=True)
class Wish:
    """What is to be guarded: this host, by a lease in a pool. directory, mark: see `lease.Place`."""

    pool_id: str
    directory: str
    mark: str
    host_id: str

    @property
    def place(self) -> Place:
        return Place(Path(self.directory), self.mark, self.host_id)


@dataclass(frozen=True)
class Status:
    """How a guardian stands. boot_id: of the machine; time: when it wrote this, seconds since boot; since, lost: see
    `hold.Hold`; -1 for none."""

    state: State
    boot_id: str
    term: str
    number: int
    time: float
    since: float = -1.0
    lost: float = -1.0
    pool_id: str = ""

    @property
    def stamp(self) -> str:
        """Names this moment. The control plane sends it back: then it was heard from after this moment."""
        return f"{self.term}/{self.time!r}"


def stamped(stamp: str, term: str) -> float | None:
    """The moment that a stamp names; None for a stamp of another term, or of nobody."""
    head, _, tail = stamp.partition("/")
    try:
        return float(tail) if head == term else None
    except ValueError:
        return None


class Desk:
    """The files. saved: the wish's copy that survives a restart of the machine."""

    def __init__(self, saved: Path, directory: Path = DIRECTORY) -> None:
        self._saved = saved
        self._directory = directory

    def prepare(self) -> None:
        """After a restart of the machine: brings back what was wished for. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self._directory / "wish.json").exists() and self._saved.exists():
            shutil.copyfile(self._saved, self._directory / "wish.json")

    def wish(self) -> Wish | None:
        """What is to be guarded now; None for nothing. Raises OSError, ValueError."""
        try:
            text = (self._directory / "wish.json").read_text()
        except FileNotFoundError:
            return None
        return Wish(**json.loads(text))

    def set_wish(self, wish: Wish | None) -> None:
        """Remembers what is to be guarded. Raises OSError."""
        for path in (self._saved, self._directory / "wish.json"):
            if wish is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_file(path, json.dumps(asdict(wish)).encode())

    def grant(self) -> str:
        """The latest stamp that the control plane sent back; "" for none."""
        return self._read("grant.json")

    def set_grant(self, stamp: str) -> None:
        """Raises OSError."""
        _replace(self._directory / "grant.json", stamp)

    def status(self) -> Status | None:
        """How the guardian stood when it last wrote; None when it never did, or wrote what makes no sense."""
        try:
            data = json.loads(self._read("status.json"))
            return Status(**{**data, "state": State(data["state"])})
        except (ValueError, TypeError, KeyError):
            return None

    def set_status(self, status: Status) -> None:
        """Raises OSError."""
        _replace(self._directory / "status.json", json.dumps(asdict(status)))

    def _read(self, name: str) -> str:
        try:
            return (self._directory / name).read_text()
        except OSError:  # nothing that may be missing here keeps the guardian from ending VMs
            return ""


def _replace(path: Path, text: str) -> None:
    """Replaces a file atomically. Not durably: it need not survive the machine, and is written twice a second."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.rename(path)
