"""KVM hosts that no Ostler manages, as sources of imports: a host of the fleet asks their libvirt
through ssh or TLS."""

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
from ostler_control.models import Host, HostState, ImportSource, KvmSource, KvmTlsSource
from ostler_control.vmware.connection import parse_address
from ostler_control.vmware.inventory import Disk, Image, Nic, Power, Problem, SourceVm

TYPE = "kvm"
SSH_PORT, TLS_PORT = 22, 16514
MAX_PRIVATE_KEY_BYTES, MAX_KNOWN_HOSTS_BYTES = 16 << 10, 64 << 10
MAX_CA_BYTES, MAX_CERTIFICATE_BYTES = 64 << 10, 64 << 10
_Request = TypeVar("_Request", pb.ListRemoteVmsRequest, pb.CopyRemoteDisksRequest, pb.EndRemoteCopyRequest)
_Response = TypeVar("_Response")
_USERNAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_MAX_HOSTS_ASKED = 3
_CALL_S = 180.0  # longer than the agent takes at most
_FIRMWARES = {vm_pb2.FIRMWARE_UEFI: "efi"}
_FORMATS = {volume_pb2.DISK_FORMAT_QCOW2: "qcow2", volume_pb2.DISK_FORMAT_RAW: "raw"}
_WIRE_FORMATS = {name: value for value, name in _FORMATS.items()}
_IN_MEMORY = (vm_pb2.POWER_STATE_RUNNING, vm_pb2.POWER_STATE_PAUSED)


@dataclass(frozen=True)
class SshTrust:
    """How ssh logs in. known_hosts: lines of a known_hosts file."""

    username: str
    known_hosts: str


@dataclass(frozen=True)
class TlsTrust:
    """How libvirt's TLS port is used. ca_pem: verifies the server; client_certificate: PEM with its chain."""

    ca_pem: str
    client_certificate: str


@dataclass(frozen=True)
class NewKvmSource:
    """A source to be registered. address: as the operator wrote it; private_key: ssh's or the client certificate's."""

    id: str
    name: str
    address: str
    private_key: Secret
    trust: SshTrust | TlsTrust


def check(new: NewKvmSource) -> pb.SshServer | pb.TlsServer:
    """Checks every field; returns how to log in. Raises InvalidArgumentError."""
    check_name("name", new.name)
    private_key = new.private_key.reveal()
    if not 0 < len(private_key) <= MAX_PRIVATE_KEY_BYTES:
        raise bad_field("private_key", f"must have 1 to {MAX_PRIVATE_KEY_BYTES} bytes", "INVALID_PRIVATE_KEY")
    if isinstance(new.trust, SshTrust):
        return _check_ssh(new, new.trust, private_key)
    host, port = parse_address(new.address, default_port=TLS_PORT)
    certificate = new.trust.client_certificate.encode()
    if not 0 < len(new.trust.ca_pem) <= MAX_CA_BYTES:
        raise bad_field("ca_pem", f"must have 1 to {MAX_CA_BYTES} bytes", "INVALID_CA")
    if not 0 < len(certificate) <= MAX_CERTIFICATE_BYTES:
        raise bad_field("client_certificate", f"must have 1 to {MAX_CERTIFICATE_BYTES} bytes", "INVALID_CERTIFICATE")
    return pb.TlsServer(
        host=host, port=port, ca_pem=new.trust.ca_pem, client_certificate=certificate, private_key=private_key
    )


def _check_ssh(new: NewKvmSource, trust: SshTrust, private_key: bytes) -> pb.SshServer:
    host, port = parse_address(new.address, default_port=SSH_PORT)
    if not _USERNAME.fullmatch(trust.username):
        raise bad_field("username", "must be the name of a Unix user", "INVALID_USERNAME")
    known_hosts = trust.known_hosts.encode()
    if not 0 < len(known_hosts) <= MAX_KNOWN_HOSTS_BYTES:
        raise bad_field("known_hosts", f"must have 1 to {MAX_KNOWN_HOSTS_BYTES} bytes", "INVALID_KNOWN_HOSTS")
    return pb.SshServer(host=host, port=port, username=trust.username, private_key=private_key, known_hosts=known_hosts)


def prove(new: NewKvmSource, agents: Agents) -> None:
    """Has a host log in and list the VMs: outside of transactions. Raises what `check` and `ask` raise."""
    _list(with_server(pb.ListRemoteVmsRequest(), check(new)), agents, _capable())


def create(new: NewKvmSource, actor: str, keys: Keyring) -> ImportSource:
    """Records a source that was proved. Raises as `create_source` does."""
    row = ImportSource(id=new.id, name=new.name, type=TYPE, address=new.address, **_columns(new))
    return create_source(row, new.private_key, actor, keys, _details(new))


def changed(
    source: ImportSource, trust: SshTrust | TlsTrust | None, private_key: Secret | None, keys: Keyring
) -> NewKvmSource:
    """A source as it is to be; what is None or "" in `trust` stays. Its address stays: the key is for no other server.

    Raises FailedPreconditionError OTHER_TRANSPORT.
    """
    old = trust_of(source)
    if isinstance(old, SshTrust) and isinstance(trust, SshTrust):
        new: SshTrust | TlsTrust = SshTrust(trust.username or old.username, trust.known_hosts or old.known_hosts)
    elif isinstance(old, TlsTrust) and isinstance(trust, TlsTrust):
        new = TlsTrust(trust.ca_pem or old.ca_pem, trust.client_certificate or old.client_certificate)
    elif trust is None:
        new = old
    else:
        way = "ssh" if isinstance(old, SshTrust) else "TLS"
        raise FailedPreconditionError(
            f"import source {source.name} is reached through {way}; to reach it in another way remove it, then add it",
            "OTHER_TRANSPORT",
            {"source": source.name},
        )
    return NewKvmSource(source.id, source.name, source.address, private_key or keys.open(source), new)


def update(source: ImportSource, new: NewKvmSource, actor: str, keys: Keyring) -> ImportSource:
    """Records a changed source that was proved. source: as `changed` got it. Raises as `update_source` does."""
    return update_source(source, new.private_key, actor, keys, _details(new), **_columns(new))


def _columns(new: NewKvmSource) -> dict[str, str]:
    if isinstance(new.trust, SshTrust):
        return {"username": new.trust.username}
    return {"username": "", "ca_pem": new.trust.ca_pem}


def _details(new: NewKvmSource) -> KvmSource | KvmTlsSource:
    if isinstance(new.trust, SshTrust):
        return KvmSource(known_hosts=new.trust.known_hosts)
    return KvmTlsSource(client_certificate=new.trust.client_certificate)


def trust_of(source: ImportSource) -> SshTrust | TlsTrust:
    """How a KVM host is reached, without the private key."""
    with session():
        ssh = KvmSource.get_or_none(KvmSource.source == source.id)
        if ssh is not None:
            return SshTrust(source.username, ssh.known_hosts)
        tls = KvmTlsSource.get(KvmTlsSource.source == source.id)
        return TlsTrust(source.ca_pem, tls.client_certificate)


def server_of(source: ImportSource, keys: Keyring) -> pb.SshServer | pb.TlsServer:
    """How an agent logs in. Holds the private key: for the call that sends it, and for nothing else."""
    return check(changed(source, None, None, keys))


def with_server(request: _Request, server: pb.SshServer | pb.TlsServer) -> _Request:
    """The request, with the host that it is about."""
    if isinstance(server, pb.TlsServer):
        request.tls.CopyFrom(server)
    else:
        request.server.CopyFrom(server)
    return request


def list_vms(source: ImportSource, keys: Keyring, agents: Agents) -> list[SourceVm]:
    """All VMs of a source, without the files of their disks. Raises what the agents raise."""
    answer = _list(with_server(pb.ListRemoteVmsRequest(), server_of(source, keys)), agents, _capable())
    return [_source_vm(vm) for vm in answer.vms]


def find_vm(source: ImportSource, keys: Keyring, agents: Agents, text: str, host: Host | None = None) -> SourceVm:
    """A VM by its UUID or name. host: that asks, None for any. Raises NotFoundError SOURCE_VM_NOT_FOUND."""
    if not text:
        raise bad_field("spec.source_vm", "is required: a UUID or a name", "REQUIRED")
    request = with_server(pb.ListRemoteVmsRequest(vm=text), server_of(source, keys))
    answer = _list(request, agents, [host] if host is not None else _capable())
    return _source_vm(answer.vms[0])


def end_copy(source: ImportSource, keys: Keyring, agents: Agents, vm_id: str, copy_id: str, host_id: str) -> None:
    """Ends what a copy may have left at the source. host_id: of the host that copied: it is asked before the others.

    Raises what the agents raise.
    """
    request = with_server(pb.EndRemoteCopyRequest(vm_id=vm_id, copy_id=copy_id), server_of(source, keys))
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
