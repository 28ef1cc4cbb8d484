"""What tests of the guardian share: a pool, a desk, VMs that can be ended, and storage that hangs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ostler_agent.guardian.desk import Desk, Wish
from ostler_agent.guardian.lease import Lease, Place
from ostler_agent.pools import fingerprint

HOST = "11111111-1111-4111-8111-111111111111"
VM = "22222222-2222-4222-8222-222222222222"
POOL = "33333333-3333-4333-8333-333333333333"


def pool(directory: Path) -> Wish:
    """A pool in a directory, and the wish to guard by a lease in it."""
    directory.mkdir()
    return Wish(POOL, str(directory), fingerprint.read_or_make(directory), HOST)


def desk(root: Path) -> Desk:
    found = Desk(root / "guard.json", root / "desk")
    found.prepare()
    return found


def hang(place: Place) -> Path:
    """From now on a write to the lease hangs, as on storage that is gone: its file is a pipe that nobody reads."""
    path = place.directory / place.name
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    return pipe.replace(path)  # at once: a guardian makes the file that it does not find


class Vms:
    """VMs in memory."""

    def __init__(self) -> None:
        self.alive = [VM]
        self.ended: list[str] = []

    def running(self) -> Sequence[str]:
        return list(self.alive)

    def end(self) -> Sequence[str]:
        gone, self.alive = self.alive, []
        self.ended += gone
        return gone


class Storage:
    """Stands for the renewer's thread: the test says when a write ends, and how."""

    def __init__(self) -> None:
        self.works = True
        self.leases: list[Lease] = []

    def write(self, place: Place, lease: Lease) -> None:
        if not self.works:
            raise OSError("Input/output error")
        self.leases.append(lease)
