"""libvirt of another host, through a socket that a tunnel forwards: its VMs, and a copy of a running one's disks.

Nothing is defined, started, stopped or changed there. A copy of a running VM is a pull-mode backup of libvirt: QEMU
serves all disks as of one moment on a socket, and keeps what the guest overwrites meanwhile in files beside the disks,
which libvirt deletes when the backup ends.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote
from xml.etree.ElementTree import Element

import libvirt
from ostler_common.errors import (
    FailedPreconditionError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
    UnavailableError,
)

from ostler_agent.hypervisors.foreign import Problem
from ostler_agent.hypervisors.libvirt.errors import is_code, lost_connection, translated
from ostler_agent.hypervisors.libvirt.inventory import power_state
from ostler_agent.hypervisors.libvirt.xml import reader, remote
from ostler_agent.hypervisors.libvirt.xml.element import element, to_text
from ostler_agent.hypervisors.libvirt.xml.remote import Definition, RemoteVm

MAX_VMS = 1000
# On which QEMU of the source serves disks with TLS; the first is NBD's own.
COPY_PORTS = range(10809, 10873)
_MAX_PORTS_TRIED = 4
# QEMU may make files in the directory that libvirt keeps for a running domain, also where it is confined.
_DOMAIN_DIRECTORY = "/var/lib/libvirt/qemu/domain-{id}-{name}"
_SHORT_NAME_CHARACTERS = 20  # libvirt's
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@ -]*", re.ASCII)
_ABORT_TIMEOUT_S, _POLL_INTERVAL_S = 60.0, 0.2


class RemoteLibvirt:
    """A connection. Its calls have no time limit of their own: close the tunnel to end them."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self._connection = connection

    def list_vms(self) -> list[RemoteVm]:
        """All VMs, by name. Raises ResourceExhaustedError TOO_MANY_VMS."""
        with translated("listing the VMs of the source"):
            domains = self._connection.listAllDomains()
            if len(domains) > MAX_VMS:
                raise ResourceExhaustedError(
                    f"the source has {len(domains)} VMs, more than {MAX_VMS}; name the one to import", "TOO_MANY_VMS"
                )
            found = [vm for domain in domains if (vm := _describe_if_there(domain)) is not None]
        return sorted(found, key=lambda vm: (vm.name, vm.vm_id))

    def find_vm(self, vm: str) -> RemoteVm:
        """A VM by its UUID or name. Raises NotFoundError SOURCE_VM_NOT_FOUND."""
        with translated("inspecting a VM of the source"):
            return _describe(_lookup(self._connection, vm))

    def is_off(self, vm_id: str) -> bool:
        """Whether a VM is off. Raises NotFoundError SOURCE_VM_NOT_FOUND."""
        with translated("inspecting a VM of the source"):
            return not _lookup(self._connection, vm_id).isActive()

    def find_volume(self, path: str) -> libvirt.virStorageVol:
        """The volume of an active storage pool that has this path. Raises libvirtError."""
        return self._connection.storageVolLookupByPath(path)

    def new_stream(self) -> libvirt.virStream:
        """A stream to download a volume with."""
        return self._connection.newStream()

    def begin_copy(self, vm_id: str, copy_id: str, paths: Mapping[str, str]) -> str:
        """Begins a copy of a running VM's disks as of now; returns the path of the socket on which QEMU serves them.

        copy_id: a UUID, names it; paths: of the disks to copy, by target, which is also the export's name. An earlier
        copy of that name is ended first. Raises FailedPreconditionError VM_STATE, VM_NAME, RUNNING_ENCRYPTED;
        AbortedError VM_BUSY.
        """
        self.end_copy(vm_id, copy_id)
        with translated("beginning a copy of a VM of the source"):
            domain, every = self._running(vm_id)
            socket = _socket_path(domain, copy_id)
            server = element("server", transport="unix", socket=socket)
            domain.backupBegin(_backup_xml(server, copy_id, every, paths), None, 0)
        return socket

    def begin_copy_tls(self, vm_id: str, copy_id: str, paths: Mapping[str, str], address: str) -> int:
        """Like `begin_copy`; QEMU serves the disks with TLS on a port of this address of the source; returns the port.

        Raises FailedPreconditionError COPY_TLS, too.
        """
        self.end_copy(vm_id, copy_id)
        first = int(copy_id.replace("-", "")[:8], 16)
        ports = [COPY_PORTS[(first + number) % len(COPY_PORTS)] for number in range(_MAX_PORTS_TRIED)]
        with translated("beginning a copy of a VM of the source"):
            domain, every = self._running(vm_id)
            for port in ports:
                server = element("server", transport="tcp", tls="yes", name=address, port=str(port))
                try:
                    domain.backupBegin(_backup_xml(server, copy_id, every, paths), None, 0)
                    return port
                except libvirt.libvirtError as error:
                    said = error.get_error_message()
                    if lost_connection(error) or is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
                        raise
        raise FailedPreconditionError(
            f"QEMU of the source does not serve the VM's disks with TLS on port {ports[0]}: {said} (it needs"
            " certificates in backup_tls_x509_cert_dir of qemu.conf there; or shut the VM down, or use ssh)",
            "COPY_TLS",
        )

    def _running(self, vm_id: str) -> tuple[libvirt.virDomain, list[str]]:
        """A VM that runs and can be copied, and the targets of all its disks."""
        domain = _lookup(self._connection, vm_id)
        if not domain.isActive():
            raise FailedPreconditionError("the VM does not run at the source any more", "VM_STATE")
        root = reader.read(domain.XMLDesc())
        if any(disk.luks for disk in remote.describe(root).disks):
            raise FailedPreconditionError(
                "the VM has encrypted disks: a copy while it runs would leave data in the clear at the source; shut it"
                " down",
                "RUNNING_ENCRYPTED",
            )
        return domain, [target.get("dev", "") for target in root.findall("devices/disk/target")]

    def end_copy(self, vm_id: str, copy_id: str) -> None:
        """Ends a copy, and waits until libvirt has. Idempotent; succeeds if the VM is gone or off.

        Raises UnavailableError COPY_NOT_ENDED.
        """
        with translated("ending a copy of a VM of the source"):
            try:
                domain = _lookup(self._connection, vm_id)
            except NotFoundError:
                return
            end = time.monotonic() + _ABORT_TIMEOUT_S
            while _is_copied(domain, copy_id):
                with contextlib.suppress(libvirt.libvirtError):
                    domain.abortJob()
                if time.monotonic() > end:
                    raise UnavailableError("the source has not ended the copy of its VM yet", "COPY_NOT_ENDED")
                time.sleep(_POLL_INTERVAL_S)


@contextlib.contextmanager
def connected(sockets: Sequence[Path]) -> Iterator[RemoteLibvirt]:
    """A connection through the first of these sockets that libvirt answers on.

    Raises UnavailableError LIBVIRT_UNAVAILABLE.
    """
    connection = _open(sockets)
    try:
        yield RemoteLibvirt(connection)
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


def _open(sockets: Sequence[Path]) -> libvirt.virConnect:
    *others, last = (f"qemu+unix:///system?socket={quote(str(socket))}" for socket in sockets)
    for uri in others:
        with contextlib.suppress(libvirt.libvirtError):
            return libvirt.open(uri)
    with translated("connecting to libvirt of the source"):
        return libvirt.open(last)


def _socket_path(domain: libvirt.virDomain, copy_id: str) -> str:
    name = str(domain.name())
    if not _PLAIN_NAME.fullmatch(name):
        raise FailedPreconditionError(
            f"VM {remote.plain(name)!r} has characters in its name with which it cannot be copied while it runs; shut"
            " it down",
            "VM_NAME",
        )
    directory = _DOMAIN_DIRECTORY.format(id=domain.ID(), name=name[:_SHORT_NAME_CHARACTERS])
    return f"{directory}/{_socket_name(copy_id)}"


def _describe_if_there(domain: libvirt.virDomain) -> RemoteVm | None:
    """None for a VM that was undefined since the list was made."""
    try:
        return _describe(domain)
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return None
        raise


def _describe(domain: libvirt.virDomain) -> RemoteVm:
    state, _ = domain.state()
    running = bool(domain.isActive())
    problems: list[Problem] = []
    definition: Definition | None = None
    try:
        # What a running VM has now, and what one that is off will have.
        definition = remote.describe(reader.read(domain.XMLDesc(0 if running else libvirt.VIR_DOMAIN_XML_INACTIVE)))
        problems += definition.problems
    except OstlerError as error:
        problems.append(Problem(error.reason, error.message))
    disks = definition.disks if definition is not None else ()
    capacities = {disk.target: _capacity(domain, disk.target) for disk in disks}
    problems += [
        Problem("DISK_UNREADABLE", f"disk {target}: libvirt of the source cannot tell its size")
        for target, capacity in capacities.items()
        if not capacity
    ]
    return RemoteVm(
        domain.UUIDString(),
        remote.plain(domain.name()),
        power_state(state),
        definition,
        capacities,
        tuple(problems),
    )


def _capacity(domain: libvirt.virDomain, target: str) -> int:
    try:
        capacity, _, _ = domain.blockInfo(target)
    except libvirt.libvirtError:
        return 0
    return max(0, int(capacity))


def _lookup(connection: libvirt.virConnect, vm: str) -> libvirt.virDomain:
    for look_up in (connection.lookupByUUIDString, connection.lookupByName):
        with contextlib.suppress(libvirt.libvirtError):
            return look_up(vm)
    connection.getLibVersion()  # raises when it is the connection that is broken
    raise NotFoundError(f"there is no VM {remote.plain(vm)!r} on the source", "SOURCE_VM_NOT_FOUND")


def _is_copied(domain: libvirt.virDomain, copy_id: str) -> bool:
    try:
        xml = domain.backupGetXMLDesc()
    except libvirt.libvirtError as error:
        if is_code(
            error, libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN
        ):
            return False
        raise
    scratches = [scratch.get("file", "") for scratch in reader.read(xml).findall("disks/disk/scratch")]
    return any(PurePosixPath(file).name.startswith(_scratch_prefix(copy_id)) for file in scratches)


def _scratch_prefix(copy_id: str) -> str:
    return f".ostler-{copy_id.replace('-', '')[:16]}."


def _socket_name(copy_id: str) -> str:
    return f"ostler-{copy_id.replace('-', '')[:16]}.sock"


def _backup_xml(server: Element, copy_id: str, every: Sequence[str], paths: Mapping[str, str]) -> str:
    disks = []
    for target in every:
        if target not in paths:
            disks.append(element("disk", name=target, backup="no"))
            continue
        path = PurePosixPath(paths[target])
        scratch = path.parent / f"{_scratch_prefix(copy_id)}{target}"
        place = element("scratch", file=str(scratch))
        disks.append(element("disk", place, name=target, backup="yes", type="file", exportname=target))
    return to_text(element("domainbackup", server, element("disks", *disks), mode="pull"))
