"""KVM hosts that no Ostler manages, as sources of imports: a host of the fleet asks their libvirt through ssh."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message
from ostler.agent.v1 import remote_kvm_pb2 as pb
from ostler.types.v1 import vm_pb2, volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError, bad_field
from ostler_common.hypervisors import Function
from ostler_common.secret import Secret

from ostler_control.agents import Agent, Agents
from ostler_control.catalog.names import check_name
from ostler_control.database import session
from ostler_control.hosts.rows import address
from ostler_control.hypervisors import rules
from ostler_control.imports import files
from ostler_control.imports.source_rows import create_source, update_source
from ostler_control.keys import Keyring
from ostler_control.models import Host, HostState, ImportSource, KvmSource
from ostler_control.vmware.connection import parse_address
from ostler_control.vmware.inventory import Disk, Image, Nic, Power, Problem, SourceVm

TYPE = "kvm"
SSH_PORT = 22
MAX_PRIVATE_KEY_BYTES, MAX_KNOWN_HOSTS_BYTES = 16 << 10, 64 << 10
_Response = TypeVar("_Response")
_USERNAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_MAX_HOSTS_ASKED = 3
_CALL_S = 180.0  # longer than the agent takes at most
_FIRMWARES = {vm_pb2.FIRMWARE_UEFI: "efi"}
_FORMATS = {volume_pb2.DISK_FORMAT_QCOW2: "qcow2", volume_pb2.DISK_FORMAT_RAW: "raw"}
_WIRE_FORMATS = {name: value for value, name in _FORMATS.items()}
_IN_MEMORY = (vm_pb2.POWER_STATE_RUNNING, vm_pb2.POWER_STATE_PAUSED)


@dataclass(frozen=True)
class NewKvmSource:
    """A source to be registered. address: as the operator wrote it; known_hosts: lines of a known_hosts file."""

    id: str
    name: str
    address: str
    username: str
    private_key: Secret
    known_hosts: str


def check(new: NewKvmSource) -> pb.SshServer:
    """Checks every field; returns how to log in. Raises InvalidArgumentError."""
    check_name("name", new.name)
    host, port = parse_address(new.address, default_port=SSH_PORT)
    if not _USERNAME.fullmatch(new.username):
        raise bad_field("username", "must be the name of a Unix user", "INVALID_USERNAME")
    private_key = new.private_key.reveal()
    if not 0 < len(private_key) <= MAX_PRIVATE_KEY_BYTES:
        raise bad_field("private_key", f"must have 1 to {MAX_PRIVATE_KEY_BYTES} bytes", "INVALID_PRIVATE_KEY")
    known_hosts = new.known_hosts.encode()
    if not 0 < len(known_hosts) <= MAX_KNOWN_HOSTS_BYTES:
        raise bad_field("known_hosts", f"must have 1 to {MAX_KNOWN_HOSTS_BYTES} bytes", "INVALID_KNOWN_HOSTS")
    return pb.SshServer(host=host, port=port, username=new.username, private_key=private_key, known_hosts=known_hosts)


def prove(new: NewKvmSource, agents: Agents) -> None:
    """Has a host log in and list the VMs: outside of transactions. Raises what `check` and `ask` raise."""
    _list(pb.ListRemoteVmsRequest(server=check(new)), agents, _capable())


def create(new: NewKvmSource, actor: str, keys: Keyring) -> ImportSource:
    """Records a source that was proved. Raises as `create_source` does."""
    row = ImportSource(id=new.id, name=new.name, type=TYPE, address=new.address, username=new.username)
    return create_source(row, new.private_key, actor, keys, new.known_hosts)


def changed(
    source: ImportSource, username: str, private_key: Secret | None, known_hosts: str, keys: Keyring
) -> NewKvmSource:
    """A source as it is to be; what is "" or None stays. Its address stays: the key is for no other server."""
    return NewKvmSource(
        id=source.id,
        name=source.name,
        address=source.address,
        username=username or source.username,
        private_key=private_key or keys.open(source),
        known_hosts=known_hosts or known_hosts_of(source),
    )


def update(source: ImportSource, new: NewKvmSource, actor: str, keys: Keyring) -> ImportSource:
    """Records a changed source that was proved. source: as `changed` got it. Raises as `update_source` does."""
    return update_source(source, new.private_key, actor, keys, new.known_hosts, username=new.username)


def known_hosts_of(source: ImportSource) -> str:
    """The source's host keys; "" for a source that is no KVM host."""
    with session():
        row = KvmSource.get_or_none(KvmSource.source == source.id)
    return row.known_hosts if row is not None else ""


def server_of(source: ImportSource, keys: Keyring) -> pb.SshServer:
    """How an agent logs in. Holds the private key: for the call that sends it, and for nothing else."""
    return check(changed(source, "", None, "", keys))


def list_vms(source: ImportSource, keys: Keyring, agents: Agents) -> list[SourceVm]:
    """All VMs of a source, without the files of their disks. Raises what the agents raise."""
    answer = _list(pb.ListRemoteVmsRequest(server=server_of(source, keys)), agents, _capable())
    return [_source_vm(vm) for vm in answer.vms]


def find_vm(source: ImportSource, keys: Keyring, agents: Agents, text: str, host: Host | None = None) -> SourceVm:
    """A VM by its UUID or name. host: that asks, None for any. Raises NotFoundError SOURCE_VM_NOT_FOUND."""
    if not text:
        raise bad_field("spec.source_vm", "is required: a UUID or a name", "REQUIRED")
    request = pb.ListRemoteVmsRequest(server=server_of(source, keys), vm=text)
    answer = _list(request, agents, [host] if host is not None else _capable())
    return _source_vm(answer.vms[0])


def end_copy(source: ImportSource, keys: Keyring, agents: Agents, vm_id: str, copy_id: str, host_id: str) -> None:
    """Ends what a copy may have left at the source. host_id: of the host that copied: it is asked before the others.

    Raises what the agents raise.
    """
    request = pb.EndRemoteCopyRequest(server=server_of(source, keys), vm_id=vm_id, copy_id=copy_id)
    _ask(lambda agent: agent.remote_kvm.EndRemoteCopy, request, agents, _capable(host_id))


def image(value: Image) -> pb.RemoteImage:
    """A file of a disk, for an agent."""
    return pb.RemoteImage(path=value.path, format=_WIRE_FORMATS[value.format], encrypted=value.encrypted)


def _list(request: pb.ListRemoteVmsRequest, agents: Agents, hosts: Sequence[Host]) -> pb.ListRemoteVmsResponse:
    return _ask(lambda agent: agent.remote_kvm.ListRemoteVms, request, agents, hosts)


def _ask(
    method: Callable[[Agent], Callable[..., _Response]], request: Message, agents: Agents, hosts: Sequence[Host]
) -> _Response:
    """Asks one host after the other until one reaches the source: outside of transactions."""
    failure: OstlerError = FailedPreconditionError(
        "no host that is up can reach VMs of other KVM hosts; add one, or try again later", "NO_CAPABLE_HOST"
    )
    for host in hosts:
        try:
            return agents.call(address(host), method, request, _CALL_S)
        except OstlerError as error:
            if error.code not in ("UNAVAILABLE", "UNIMPLEMENTED") and error.reason != "TOOL_MISSING":
                raise
            failure = error
    raise failure


def _capable(first_id: str = "") -> Sequence[Host]:
    """The hosts to ask, in this order. first_id: of the host that comes before the others if it is up."""
    with session():
        up = Host.select().where((Host.state == HostState.UP) & ~Host.removed).order_by(Host.maintenance, Host.name)
        capable = [row for row in up if rules.supports(Function.INSTANCE_CONVERSION, row)]
    return sorted(capable, key=lambda row: row.id != first_id)[:_MAX_HOSTS_ASKED]


def _source_vm(vm: pb.RemoteVm) -> SourceVm:
    """As the agent has read it, under its limits."""
    return SourceVm(
        ref=vm.vm_id,
        name=vm.name,
        power=Power.ON if vm.power_state in _IN_MEMORY else Power.OFF,
        guest_id=_guest_id(vm.os_id),
        guest_name=_guest_id(vm.os_id),
        firmware=_FIRMWARES.get(vm.firmware, "bios"),
        secure_boot=vm.secure_boot,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        disks=tuple(_disk(number, disk) for number, disk in enumerate(vm.disks, start=1)),
        nics=tuple(
            Nic(number, f"network interface {number}", nic.model, nic.mac or _new_mac(), nic.network)
            for number, nic in enumerate(vm.nics, start=1)
        ),
        problems=tuple(Problem(problem.code, problem.text, problem.refuses) for problem in vm.problems),
    )


def _disk(number: int, disk: pb.RemoteVm.Disk) -> Disk:
    images = tuple(Image(image.path, _FORMATS[image.format], image.encrypted) for image in disk.images)
    file_name = images[0].path if images else ""
    return Disk(number, disk.target, disk.capacity_bytes, file_name=file_name, images=images)


def _guest_id(os_id: str) -> str:
    """ "ubuntu22.04" for libosinfo's "http://ubuntu.com/ubuntu/22.04"."""
    return "".join(os_id.split("/")[-2:])[:64]


def _new_mac() -> str:
    return files.random_mac(secrets.token_bytes)
