"""VMs on libvirt of another host that ssh reaches: what they are, and of which images their disks consist."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ostler_common.errors import FailedPreconditionError, OstlerError

from ostler_agent.conversion.deadline import deadline
from ostler_agent.hypervisors.foreign import Problem
from ostler_agent.hypervisors.libvirt.xml.remote import RemoteVm
from ostler_agent.jobs import JobContext
from ostler_agent.tools.remote_disk import ChainImage, Layer, read_chain
from ostler_agent.tools.ssh import SshServer, tunnel

if TYPE_CHECKING:
    from ostler_agent.hypervisors.libvirt.remote import RemoteLibvirt

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

    def list(self, server: SshServer) -> list[InspectedVm]:
        """All VMs, without the images of their disks.

        Raises what `ssh.tunnel` raises; UnavailableError LIBVIRT_UNAVAILABLE; DeadlineExceededError LISTING_TIMEOUT.
        """
        with self._session(server) as (job, directory), libvirt_of(server, directory, job) as libvirt:
            return [InspectedVm(vm, {}, vm.problems) for vm in libvirt.list_vms()]

    def inspect(self, server: SshServer, vm: str) -> InspectedVm:
        """A VM by its UUID or name, with the images of its disks.

        Raises as `list` does, NotFoundError SOURCE_VM_NOT_FOUND.
        """
        with self._session(server) as (job, directory):
            with libvirt_of(server, directory, job) as libvirt:
                found = libvirt.find_vm(vm)
            chains: dict[str, tuple[ChainImage, ...]] = {}
            problems = list(found.problems)
            for disk in found.definition.disks if found.definition else ():
                try:
                    Layer(disk.path, disk.format)  # refuses a path that is none
                    with tempfile.TemporaryDirectory(prefix="chain.", dir=directory) as place:
                        chains[disk.target] = read_chain(server, disk.path, disk.format, Path(place), job)
                except OstlerError as error:
                    job.check()
                    problems.append(Problem(error.reason, f"disk {disk.target}: {error.message}"))
            return InspectedVm(found, chains, tuple(problems))

    def end_copy(self, server: SshServer, vm_id: str, copy_id: str) -> None:
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
    def _session(self, server: SshServer) -> Iterator[tuple[JobContext, Path]]:
        job = JobContext("list-remote-vms")
        with self.directory() as directory, deadline(job, _LIST_TIMEOUT_S, "listing"):
            yield job, directory


@contextmanager
def libvirt_of(server: SshServer, directory: Path, job: JobContext) -> Iterator[RemoteLibvirt]:
    """A connection to the server's libvirt, which ends when the job must stop, whatever libvirt is doing then.

    Raises what `ssh.tunnel` raises; FailedPreconditionError TOOL_MISSING; UnavailableError LIBVIRT_UNAVAILABLE.
    """
    try:
        from ostler_agent.hypervisors.libvirt.remote import connected  # a host with another driver may lack libvirt
    except ImportError:
        raise FailedPreconditionError(
            "this host lacks libvirt-python, which asks libvirt of the source (install it, then try again)",
            "TOOL_MISSING",
            {"program": "libvirt-python"},
        ) from None
    with tempfile.TemporaryDirectory(prefix="libvirt.", dir=directory) as name:
        sockets = {Path(name, str(number)): path for number, path in enumerate(_LIBVIRT_SOCKETS)}
        with tunnel(server, sockets, job) as child, job.on_cancel(child.terminate):
            try:
                with connected(list(sockets)) as libvirt:
                    yield libvirt
            except OstlerError:
                job.check()  # the reason why the connection broke
                raise
