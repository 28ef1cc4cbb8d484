"""VMs on libvirt of another host: what they are, and of which images their disks consist.

The host is reached through ssh, or through libvirt's own TLS port; this module knows the difference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ostler_common.errors import FailedPreconditionError, OstlerError

from ostler_agent.conversion.deadline import deadline
from ostler_agent.hypervisors.foreign import Problem
from ostler_agent.hypervisors.libvirt.xml.remote import RemoteVm
from ostler_agent.jobs import JobContext
from ostler_agent.tools import ssh, tls
from ostler_agent.tools.remote_disk import ChainImage, FileServer, Layer, read_chain
from ostler_agent.tools.ssh import SshServer
from ostler_agent.tools.ssh_files import SshFiles
from ostler_agent.tools.tls import TlsServer

if TYPE_CHECKING:
    from ostler_agent.hypervisors.libvirt.remote import RemoteLibvirt

RemoteServer: TypeAlias = SshServer | TlsServer
# libvirtd's own socket, and that of the daemon for QEMU where libvirt is split up.
_LIBVIRT_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
_LIST_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class InspectedVm:
    """A VM. chains: the images of each disk, by target, the guest's own first; empty unless the VM was asked for."""

    vm: RemoteVm
    chains: dict[str, tuple[ChainImage, ...]]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class RemoteVms:
    """work_dir: only this user can enter it; holds a directory for each call that runs."""

    work_dir: Path

    def list(self, server: RemoteServer) -> list[InspectedVm]:
        """All VMs, without the images of their disks.

        Raises what `libvirt_of` raises; DeadlineExceededError LISTING_TIMEOUT.
        """
        with self._session(server) as (job, directory), libvirt_of(server, directory, job) as libvirt:
            return [InspectedVm(vm, {}, vm.problems) for vm in libvirt.list_vms()]

    def inspect(self, server: RemoteServer, vm: str) -> InspectedVm:
        """A VM by its UUID or name, with the images of its disks.

        Raises as `list` does, NotFoundError SOURCE_VM_NOT_FOUND.
        """
        with self._session(server) as (job, directory):
            with libvirt_of(server, directory, job) as libvirt:
                found = libvirt.find_vm(vm)
            files = files_of(server, directory, job)
            chains: dict[str, tuple[ChainImage, ...]] = {}
            problems = list(found.problems)
            for disk in found.definition.disks if found.definition else ():
                try:
                    Layer(disk.path, disk.format)  # refuses a path that is none
                    with tempfile.TemporaryDirectory(prefix="chain.", dir=directory) as place:
                        chains[disk.target] = read_chain(files, disk.path, disk.format, Path(place), job)
                except OstlerError as error:
                    job.check()
                    problems.append(Problem(error.reason, f"disk {disk.target}: {error.message}"))
            return InspectedVm(found, chains, tuple(problems))

    def end_copy(self, server: RemoteServer, vm_id: str, copy_id: str) -> None:
        """Ends a copy of a running VM that may have been left. Idempotent.

        Raises as `list` does, and as `RemoteLibvirt.end_copy`.
        """
        with (
            self.directory() as directory,
            deadline(job := JobContext("end-remote-copy"), _END_TIMEOUT_S, "end"),
            libvirt_of(server, directory, job) as libvirt,
        ):
            libvirt.end_copy(vm_id, copy_id)

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """A directory for sockets while the block lasts."""
        self.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="remote.", dir=self.work_dir) as name:
            yield Path(name)

    @contextmanager
    def _session(self, server: RemoteServer) -> Iterator[tuple[JobContext, Path]]:
        job = JobContext("list-remote-vms")
        with self.directory() as directory, deadline(job, _LIST_TIMEOUT_S, "listing"):
            yield job, directory


@contextmanager
def libvirt_of(server: RemoteServer, directory: Path, job: JobContext) -> Iterator[RemoteLibvirt]:
    """A connection to the server's libvirt, which ends when the job must stop, whatever libvirt is doing then.

    Raises what `ssh.tunnel` and `tls.tunnel` raise; FailedPreconditionError TOOL_MISSING; UnavailableError
    LIBVIRT_UNAVAILABLE.
    """
    try:
        from ostler_agent.hypervisors.libvirt.remote import connected  # a host with another driver may lack libvirt
    except ImportError:
        raise FailedPreconditionError(
            "this host lacks libvirt-python, which asks libvirt of the source (install it, then try again)",
            "TOOL_MISSING",
            {"program": "libvirt-python"},
        ) from None
    with (
        tempfile.TemporaryDirectory(prefix="libvirt.", dir=directory) as name,
        _tunnelled(server, Path(name), job) as sockets,
    ):
        try:
            with connected(sockets) as libvirt:
                yield libvirt
        except OstlerError:
            job.check()  # the reason why the connection broke
            raise


@contextmanager
def _tunnelled(server: RemoteServer, directory: Path, job: JobContext) -> Iterator[list[Path]]:
    """Sockets of this host of which one leads to the server's libvirt, until the job must stop."""
    if isinstance(server, TlsServer):
        local = directory / "libvirt"
        with tls.tunnel(server, local, job):
            yield [local]
        return
    sockets = {directory / str(number): path for number, path in enumerate(_LIBVIRT_SOCKETS)}
    with ssh.tunnel(server, sockets, job) as child, job.on_cancel(child.terminate):
        yield list(sockets)


def files_of(server: RemoteServer, directory: Path, job: JobContext) -> FileServer:
    """The way to the server's image files. directory: see `libvirt_of`."""
    if isinstance(server, SshServer):
        return SshFiles(server)
    from ostler_agent.hypervisors.libvirt.remote_files import VolumeFiles  # after `libvirt_of`, which tells what lacks

    return VolumeFiles(lambda: libvirt_of(server, directory, job))
