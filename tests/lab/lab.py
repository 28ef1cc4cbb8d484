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

from ostler_agent.credentials import CredentialsStore
from ostler_agent.hypervisors.libvirt.tls import LibvirtTls
from ostler_common.tls import TlsFiles

from tests.fakes.certificates import ThrowawayCa
from tests.lab.control import Control
from tests.lab.host import Host, wait_for
from tests.lab.network import Network, is_lab, mark

TOOLS = ("unshare", "nsenter", "setpriv", "ip", "ss", "libvirtd", "virsh", "qemu-system-x86_64", "qemu-img")


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
        """Without a control plane: gives each host credentials from the throw-away CA; starts libvirtd and gateway."""
        for host in self.hosts:
            self.give_credentials(host)
        self.start_libvirt()
        for host in self.hosts:
            host.start_gateway()

    def give_credentials(self, host: Host) -> None:
        """Gives a host and its QEMU certificates from the throw-away CA, as `join` does."""
        credentials = self.ca.host_credentials(host.host_uuid, host.agent_address, addresses=(host.address, host.name))
        CredentialsStore(host.outside("/var/lib/ostler/agent")).save(credentials)
        pki, config = host.outside("/etc/pki"), host.outside("/etc/libvirt")
        LibvirtTls(pki, pki / "qemu", config).install(credentials)
        LibvirtTls(Path("/etc/pki"), Path("/etc/pki/qemu"), config).configure()  # with the names that the host sees

    @cached_property
    def ca(self) -> ThrowawayCa:
        """The throw-away CA."""
        (self.directory / "ca").mkdir()
        return ThrowawayCa(self.directory / "ca")

    def start_libvirt(self) -> None:
        """Starts libvirtd on every host."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.start_libvirt, self.hosts))

    def start_agents(self) -> None:
        """Starts the agent on every host."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.start_agent, self.hosts))


def install_client(credentials: TlsFiles, host: Host, name: str) -> str:
    """Puts a certificate where a client on the host can present it to libvirt; returns the query for libvirt's URI."""
    directory = host.outside("/etc/pki") / name
    directory.mkdir()
    shutil.copy(credentials.certificate, directory / "clientcert.pem")
    shutil.copy(credentials.key, directory / "clientkey.pem")
    shutil.copy(credentials.trust, directory / "cacert.pem")
    return f"?pkipath=/etc/pki/{name}"
