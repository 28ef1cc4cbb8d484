"""The lab's network: one bridge per lab in the root namespace, one veth pair per host.

A lab takes a slot: bridge `ostlerlabN`, addresses 10.87.N.0/24. The slot is an flock whose descriptor every process of
the lab inherits, so a slot is free exactly when nothing of its lab is alive: whatever the files still say is then
rubbish, and the next lab sweeps it away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

SLOTS = 16
LOCKS = Path("/run/lock/ostler-lab")


def run(*argv: str) -> str:
    """Output of a command; raises `CalledProcessError` with its stderr as a note."""
    try:
        return subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise


@dataclass(frozen=True)
class Network:
    """A slot that is held by whoever has `lock_fd` open."""

    slot: int
    lock_fd: int

    @property
    def bridge(self) -> str:
        return f"ostlerlab{self.slot}"

    @property
    def gateway(self) -> str:
        """Address of the root namespace, where the control plane listens."""
        return f"10.87.{self.slot}.1"

    def address(self, index: int) -> str:
        """Address of the host with this index, from 1."""
        return f"10.87.{self.slot}.{10 + index}"

    def port(self, index: int) -> str:
        """The root namespace's end of a host's veth pair."""
        return f"{self.bridge}h{index}"

    def _mac(self, index: int) -> str:
        """MAC address of the host with this index; of the root namespace for 0.

        Chosen, because a bridge else takes the lowest of its ports: that may be a guest's, which two hosts have while
        it moves, so that they do not hear each other; and it changes as hosts come and go, which their neighbours
        notice only after a minute.
        """
        return f"02:57:00:00:{self.slot:02x}:{index:02x}"

    @classmethod
    def take(cls, directory: Path) -> Network:
        """Takes a free slot for the lab that lives in `directory`, having swept away what dead labs left.

        Raises `RuntimeError` when all slots are in use.
        """
        LOCKS.mkdir(parents=True, exist_ok=True)
        with (LOCKS / "taking").open("w") as taking:  # it holds every free slot for a moment: one at a time
            fcntl.flock(taking, fcntl.LOCK_EX)
            free = [network for network in map(_lock, range(SLOTS)) if network]
            for network in free:
                network._sweep()
            for network in free[1:]:
                os.close(network.lock_fd)
        if not free:
            raise RuntimeError(f"all {SLOTS} slots of {LOCKS} are in use: stop a lab")
        network = free[0]
        os.ftruncate(network.lock_fd, 0)
        os.pwrite(network.lock_fd, str(directory).encode(), 0)
        run("ip", "link", "add", network.bridge, "address", network._mac(0), "type", "bridge")
        run("ip", "address", "add", f"{network.gateway}/24", "dev", network.bridge)
        run("ip", "link", "set", network.bridge, "up")
        return network

    @classmethod
    def find(cls, directory: Path) -> int | None:
        """Slot of the living lab in `directory`; None when it is dead."""
        for slot in range(SLOTS):
            path = LOCKS / str(slot)
            if path.exists() and path.read_text() == str(directory):
                return slot
        return None

    @staticmethod
    def kill_holders(slot: int) -> None:
        """Kills every process that holds a slot, and so all of its lab."""
        path = os.path.realpath(LOCKS / str(slot))
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if any(os.readlink(fd) == path for fd in (process / "fd").iterdir()):
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:  # it went away, or is none of ours
                continue

    @staticmethod
    def sweep_if_free(slot: int) -> bool:
        """Removes what a dead lab left in its slot; False when it lives."""
        network = _lock(slot)
        if network:
            network.release()
        return network is not None

    def connect(self, index: int, pid: int) -> None:
        """Joins the network namespace of process `pid` to the bridge; there a bridge br0 holds the host's address."""
        port, inside = self.port(index), ("nsenter", "--target", str(pid), "--net", "ip")
        mac = self._mac(index)
        run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", str(pid))
        run("ip", "link", "set", port, "master", self.bridge, "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "add", "br0", "address", mac, "type", "bridge")
        run(*inside, "link", "set", "eth0", "master", "br0", "up")
        run(*inside, "address", "add", f"{self.address(index)}/24", "dev", "br0")
        run(*inside, "link", "set", "br0", "up")

    def cut(self, index: int) -> None:
        """Unplugs a host's cable: it runs on, and nobody hears of it."""
        run("ip", "link", "set", self.port(index), "down")

    def mend(self, index: int) -> None:
        """Plugs it in again."""
        run("ip", "link", "set", self.port(index), "up")

    def release(self) -> None:
        """Gives the slot back. The hosts' processes must be dead, and with them their ends of the veth pairs."""
        self._sweep()
        os.close(self.lock_fd)

    def _sweep(self) -> None:
        links = [line.split(":")[1].strip().partition("@")[0] for line in run("ip", "-o", "link").splitlines()]
        for link in links:
            if link == self.bridge or link.startswith(f"{self.bridge}h"):
                subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
        directory = os.pread(self.lock_fd, 4096, 0).decode()
        if directory and is_lab(Path(directory)):
            shutil.rmtree(directory, ignore_errors=True)
        os.ftruncate(self.lock_fd, 0)


def mark(directory: Path) -> None:
    """Creates a directory a lab's own: one that a sweep may remove."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".ostler-lab").touch()


def is_lab(directory: Path) -> bool:
    """Whether `mark` made it so."""
    return (directory / ".ostler-lab").exists()


def _lock(slot: int) -> Network | None:
    fd = os.open(LOCKS / str(slot), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return Network(slot, fd)
