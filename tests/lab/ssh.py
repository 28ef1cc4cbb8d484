"""A stock sshd on a lab host, as a KVM host has that no Ostler manages."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import Host, wait_for

PORT = 22
_DIRECTORY = "/etc/ostler/sshd"
_CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
Subsystem sftp internal-sftp
"""


def program() -> str:
    """Path of sshd; "" where it is not installed."""
    return shutil.which("sshd", path="/usr/sbin:/usr/bin") or ""


@dataclass(frozen=True)
class Sshd:
    """A running sshd that lets one key of root's in."""

    host: Host

    @classmethod
    def start(cls, host: Host) -> Sshd:
        directory = host.outside(_DIRECTORY)
        directory.mkdir(parents=True)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
        config = _CONFIG.format(port=PORT, address=host.address, directory=_DIRECTORY)
        (directory / "config").write_text(config)
        host.outside("/run/sshd").mkdir(exist_ok=True)
        host.start_daemon("sshd", [program(), "-D", "-e", "-f", f"{_DIRECTORY}/config"])
        sshd = cls(host)
        wait_for(sshd._listens, f"sshd of {host.name}")
        return sshd

    @property
    def private_key(self) -> Path:
        """The file of the key that it lets in."""
        return self.host.outside(f"{_DIRECTORY}/user")

    @property
    def known_hosts(self) -> str:
        """Its own key, as a line of a known_hosts file."""
        kind, key, _ = self.host.outside(f"{_DIRECTORY}/host.pub").read_text().split(maxsplit=2)
        return f"{self.host.address} {kind} {key}\n"

    def cut_connections(self) -> None:
        """Kills every session that is open; new ones are let in."""
        self.host.run("pkill", "-KILL", "-f", "^sshd: root")

    def sessions(self) -> bool:
        """Whether anybody is connected."""
        return not _fails(self.host, "pgrep", "-f", "^sshd: root")

    def _listens(self) -> bool:
        if not self.host.daemon_alive("sshd"):
            raise RuntimeError(f"sshd of {self.host.name} ended: {self.host.log('sshd')}")
        return bool(self.host.run("ss", "-Hltn", f"sport = :{PORT}"))


def _fails(host: Host, *argv: str) -> bool:
    return subprocess.run([*host.enter(), *argv], capture_output=True, check=False).returncode != 0
