"""A fleet on one machine: N hosts, a directory that all of them see, and a control plane.

    with Lab.start(hosts=3) as lab:
        lab.trust_each_other()   # credentials from a throw-away CA, libvirtd on every host; no control plane needed
        lab.hosts[0].virsh("list")

Everything dies with the process that made it, unless the lab is `detached`; what a killed run leaves as files and
links is removed by the next lab that starts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ostler_common.identity import Identity, Kind
from ostler_common.tls import TlsFiles

from tests.fakes.certificates import ThrowawayCa
from tests.lab.control import Control
from tests.lab.host import Host, wait_for
from tests.lab.network import Network, is_lab, mark

TOOLS = ("unshare", "nsenter", "setpriv", "ip", "ss", "libvirtd", "virsh", "qemu-system-x86_64", "qemu-img")

LIBVIRT_TLS = {
    "libvirtd.conf": """\
listen_tls = 1
auth_tls = "none"
tls_allowed_dn_list = [ "*O=Ostler hosts*" ]
tls_priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3"
""",
    "qemu.conf": """\
default_tls_x509_cert_dir = "/etc/pki/qemu"
default_tls_x509_verify = 1
migrate_tls_force = 1
""",
}


def missing() -> str | None:
    """Why no lab can be started here; None when one can."""
    if os.geteuid() != 0:
        return "a lab needs root"
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    if absent:
        return f"a lab needs {', '.join(absent)} (make setup)"
    probe = ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "a lab needs mount, UTS, network and PID namespaces"
    return None


@dataclass
class Lab:
    """Hosts on one bridge. `directory` holds all files of the lab."""

    directory: Path
    network: Network
    hosts: list[Host]
    attached: bool = True

    @property
    def shared(self) -> Path:
        """The directory that every host sees as `SHARED`."""
        return self.directory / "shared"

    @classmethod
    @contextmanager
    def start(cls, hosts: int = 3, directory: Path | None = None) -> Iterator[Lab]:
        """Boots hosts (no daemons yet); at the end kills all processes and removes all files."""
        lab = cls.boot(hosts, directory or Path(tempfile.mkdtemp(prefix="ostler-lab-", dir="/tmp")))
        try:
            yield lab
        finally:
            lab.destroy()

    @classmethod
    def boot(cls, hosts: int, directory: Path, detached: bool = False) -> Lab:
        """Boots hosts that outlive this process when `detached`; the caller must see to `destroy`."""
        mark(directory)
        shared = directory / "shared"
        shared.mkdir()
        network = Network.take(directory)
        lab = cls(directory, network, [], not detached)
        try:
            for _ in range(hosts):
                lab.add_host()
        except BaseException:
            lab.destroy()
            raise
        return lab

    @cached_property
    def control(self) -> Control:
        """The control plane's process; nothing is started before `init` and `start`."""
        return Control(self.directory / "control", self.network, self.attached)

    @staticmethod
    def destroy_detached(directory: Path) -> None:
        """Kills a detached lab, or what is left of one, by its directory alone, and removes it."""
        slot = Network.find(directory)
        if slot is not None:
            Network.kill_holders(slot)
            wait_for(lambda: Network.sweep_if_free(slot), f"end of the lab in {directory}")
        elif is_lab(directory):
            shutil.rmtree(directory)

    def destroy(self) -> None:
        """Kills the control plane and every host and removes everything."""
        self.control.stop(signal.SIGKILL)
        for host in self.hosts:
            host.kill()
        self.network.release()

    def add_host(self) -> Host:
        """Boots one more host. It dies with the calling thread, so that should be the main one."""
        index = max((host.index for host in self.hosts), default=0) + 1
        name = f"h{index}"
        host = Host(name, index, self.network, self.directory / name, self.shared, self.attached)
        self.hosts.append(host)
        host.boot()
        return host

    def host(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def trust_each_other(self) -> None:
        """Without a control plane: gives each host credentials from the throw-away CA and starts its libvirtd."""
        for host in self.hosts:
            install_for_libvirt(self.credentials(host), host)
            install_for_qemu(self.credentials(host, Kind.QEMU), host)
        self.start_libvirt()

    @cached_property
    def ca(self) -> ThrowawayCa:
        """The throw-away CA."""
        (self.directory / "ca").mkdir()
        return ThrowawayCa(self.directory / "ca")

    def credentials(self, host: Host, kind: Kind = Kind.HOST) -> TlsFiles:
        """A certificate for a host or its QEMU, from the throw-away CA."""
        addresses = (host.address, host.name) if kind is Kind.HOST else ()
        return self.ca.issue(Identity(kind, host.host_uuid), addresses=addresses)

    def start_libvirt(self) -> None:
        """Starts libvirtd on every host."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.start_libvirt, self.hosts))

    def start_agents(self) -> None:
        """Starts the agent on every host."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.start_agent, self.hosts))


def install_for_libvirt(credentials: TlsFiles, host: Host) -> None:
    """Puts a host's credentials and the settings for them where libvirtd and its clients look, as the agent would."""
    pki = host.outside("/etc/pki")
    certificate, key, trust = credentials.certificate, credentials.key, credentials.trust
    for directory in (pki / "CA", pki / "libvirt" / "private"):
        directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(trust, pki / "CA" / "cacert.pem")
    for role in ("server", "client"):
        shutil.copy(certificate, pki / "libvirt" / f"{role}cert.pem")
        shutil.copy(key, pki / "libvirt" / "private" / f"{role}key.pem")
    for name, lines in LIBVIRT_TLS.items():
        path = host.outside("/etc/libvirt") / name
        if lines not in path.read_text():
            path.write_text(path.read_text() + lines)


def install_for_qemu(credentials: TlsFiles, host: Host) -> None:
    """Puts QEMU's own credentials where it looks, as the agent would."""
    directory = host.outside("/etc/pki") / "qemu"
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(credentials.trust, directory / "ca-cert.pem")
    for role in ("server", "client"):
        shutil.copy(credentials.certificate, directory / f"{role}-cert.pem")
        shutil.copy(credentials.key, directory / f"{role}-key.pem")
