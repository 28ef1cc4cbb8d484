"""Making a VM: placed and claimed at once, then its root disk, then started."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler_common.errors import AlreadyExistsError, CancelledError, bad_field
from ostler_common.hypervisors import Function

from ostler_control import settings
from ostler_control.catalog.names import check_name
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.hypervisors import registry, rules
from ostler_control.hypervisors.supported import check_supported
from ostler_control.keys import Keyring
from ostler_control.keys.passphrases import delete_volume
from ostler_control.models import (
    Account,
    AffinityGroup,
    Cluster,
    Host,
    Nic,
    Operation,
    Pool,
    ServiceOffering,
    Template,
    Vm,
    Volume,
    Zone,
    new_id,
)
from ostler_control.operations import Run, Undo, record_operation, workflow
from ostler_control.scheduling import affinity, capacity, placement_query
from ostler_control.templates import store as template_store
from ostler_control.vms import wire
from ostler_control.vms.rows import load, set_state
from ostler_control.volumes import matrix
from ostler_control.volumes.create import create_file, delete_file
from ostler_control.volumes.new_volume import MAX_SIZE_BYTES, MIB

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", re.ASCII)
MODELS = ("virtio", "e1000e", "e1000", "rtl8139")
MOST_NICS = 16


@dataclass(frozen=True)
class NewNic:
    """A network interface that is wanted. mac "": made up; model "": virtio."""

    bridge: str
    mac: str = ""
    model: str = ""


@dataclass(frozen=True)
class NewVm:
    """A VM that is wanted. root_size_bytes 0: the template's; None: any, or chosen."""

    name: str
    account: Account
    template: Template
    offering: ServiceOffering
    root_size_bytes: int = 0
    zone: Zone | None = None
    cluster: Cluster | None = None
    host: Host | None = None
    pool: Pool | None = None
    nics: Sequence[NewNic] = ()
    stopped: bool = False
    affinity_groups: Sequence[AffinityGroup] = ()


def create(wanted: NewVm, user: str, keys: Keyring) -> Operation:
    """Records a new VM, placed, with its root disk and that disk's passphrase, and the operation that makes it.

    Raises InvalidArgumentError, AlreadyExistsError, FailedPreconditionError NO_FEASIBLE_HOST or NO_FEASIBLE_POOL, and
    what `check_supported` raises: then nothing has changed.
    """
    check_name("name", wanted.name)
    if Vm.select().where((Vm.account == wanted.account) & (Vm.name == wanted.name)).exists():
        raise AlreadyExistsError(
            f"account {wanted.account.name} has a VM named {wanted.name} already; choose another name", "VM_EXISTS"
        )
    size_bytes = _root_size(wanted)
    check_supported(wanted.template, _needed(wanted), host=wanted.host, cluster=wanted.cluster, zone=wanted.zone)
    offering: Any = wanted.offering
    template_store.check_encryption(wanted.template, bool(offering.encrypt_root))
    vm: Any = Vm.create(
        name=wanted.name,
        account=wanted.account,
        service_offering=offering,
        template=wanted.template,
        template_name=wanted.template.name,
        cpus=offering.cpus,
        memory_bytes=offering.memory_bytes,
        firmware=wanted.template.firmware,
    )
    for position, nic in enumerate(_nics(wanted.nics)):
        Nic.create(vm=vm, position=position, mac=nic.mac, bridge=nic.bridge, model=nic.model)
    affinity.put(vm, wanted.affinity_groups)
    pools = placement_query.pools_for(
        wanted.name,
        0,
        bool(offering.encrypt_root),
        pool_id=wanted.pool.id if wanted.pool else "",
        zone_id=wanted.zone.id if wanted.zone else "",
        cluster_id=wanted.cluster.id if wanted.cluster else "",
    )
    demand = placement_query.demand_of(
        vm,
        volume_encryption=bool(offering.encrypt_root),
        hypervisor_type=wanted.template.hypervisor_type,
        allowed_types=rules.allowed(),
        formats=frozenset({wanted.template.format}),
        pool_choices=(pools,),
        zone_id=wanted.zone.id if wanted.zone else "",
        cluster_id=wanted.cluster.id if wanted.cluster else "",
        host_id=wanted.host.id if wanted.host else "",
    )
    placement = placement_query.find_and_claim(vm, demand)
    host: Any = Host.get_by_id(placement.host_id)
    Vm.update(hypervisor_type=host.hypervisor_type).where(Vm.id == vm.id).execute()
    volume_id = new_id()
    root = Volume.create(
        id=volume_id,
        name=_root_name(wanted),
        account=wanted.account,
        pool=placement.pool_ids[0],
        template=wanted.template,
        passphrase=keys.create(volume_id) if offering.encrypt_root else None,
        size_bytes=size_bytes,
        format=_root_format(host),
        root=True,
        vm_id=vm.id,
        slot=0,
    )
    matrix.check(matrix.Operation.CREATE_FROM_TEMPLATE, root, False)
    inputs = {
        "host_id": placement.host_id,
        "volume_id": volume_id,
        "iter_time_ms": settings.encryption.LUKS_ITER_TIME.get(),
        "stopped": wanted.stopped,
    }
    return record_operation("vm.create", vm, user, inputs, also=[root])


def _needed(wanted: NewVm) -> list[Function]:
    """What the VM needs of a hypervisor beside running it."""
    template: Any = wanted.template
    offering: Any = wanted.offering
    needs = {
        Function.UEFI: template.firmware == "uefi",
        Function.VOLUME_ENCRYPTION: bool(offering.encrypt_root),
        Function.NICS: bool(wanted.nics),
        Function.DIRECT_DOWNLOAD: bool(template.url),
    }
    return [function for function, needed in needs.items() if needed]


def _root_format(host: Any) -> str:
    """qcow2 wherever there is that, for it stays small."""
    formats = registry.split(host.template_formats)
    return min(formats) if formats and "qcow2" not in formats else "qcow2"


def _root_size(wanted: NewVm) -> int:
    smallest = -(-wanted.template.virtual_size_bytes // MIB) * MIB
    size_bytes = wanted.root_size_bytes or smallest
    if size_bytes % MIB or size_bytes > MAX_SIZE_BYTES:
        raise bad_field(
            "root_size_bytes", f"must be a multiple of 1 MiB, at most {MAX_SIZE_BYTES >> 40} TiB", "INVALID_SIZE"
        )
    if size_bytes < smallest:
        raise bad_field(
            "root_size_bytes",
            f"must be at least {smallest}, the size of template {wanted.template.name}",
            "INVALID_SIZE",
        )
    return size_bytes


def _root_name(wanted: NewVm) -> str:
    """The VM's name and "-root"; made unique when a volume is named so already."""
    name = f"{wanted.name[:54]}-root"
    taken = Volume.select().where((Volume.account == wanted.account) & (Volume.name == name)).exists()
    return f"{name}-{secrets.token_hex(3)}" if taken else name


def _nics(wanted: Sequence[NewNic]) -> list[NewNic]:
    if len(wanted) > MOST_NICS:
        raise bad_field("nics", f"a VM has at most {MOST_NICS} network interfaces", "TOO_MANY_NICS")
    nics: list[NewNic] = []
    for number, nic in enumerate(wanted):
        path = f"nics[{number}]"
        if not _BRIDGE.fullmatch(nic.bridge):
            raise bad_field(f"{path}.bridge", "must name a bridge on the hosts", "INVALID_BRIDGE")
        if nic.model and nic.model not in MODELS:
            raise bad_field(f"{path}.model", f"must be one of {', '.join(MODELS)}", "INVALID_NIC_MODEL")
        mac = nic.mac.lower() or _new_mac()
        if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
            raise bad_field(
                f"{path}.mac", "must be a MAC address of one station, e.g. 52:54:00:12:34:56", "INVALID_MAC"
            )
        if mac in [other.mac for other in nics] or Nic.select().where(Nic.mac == mac).exists():
            raise AlreadyExistsError(f"{path}.mac: {mac} is another network interface's", "MAC_TAKEN")
        nics.append(NewNic(nic.bridge, mac, nic.model or "virtio"))
    return nics


def _new_mac() -> str:
    while True:
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
        if not Nic.select().where(Nic.mac == mac).exists():
            return mac


@workflow("vm.create")
def _create(run: Run) -> None:
    host_id, volume_id = run.inputs["host_id"], run.inputs["volume_id"]
    with run.undoing() as undo:
        undo.push("settle", lambda: _settle(run, undo))
        undo.push("remove-root", lambda: delete_file(run, host_id, volume_id))
        share = (0, 95 if run.inputs["stopped"] else 70)
        run.step("root", lambda: create_file(run, host_id, volume_id, run.inputs["iter_time_ms"], share))
        if run.inputs["stopped"]:
            run.step("stopped", lambda: _leave_stopped(run.resource_id))
            return
        push_withdrawal(run, undo, host_id)
        run.step("start", lambda: start_on(run, host_id, (70, 100)))


def _leave_stopped(vm_id: str) -> None:
    with transaction():
        capacity.release(load(vm_id))
        set_state(vm_id, "stopped", power_state="stopped")


def start_on(run: Run, host_id: str, share: tuple[int, int] = (0, 100)) -> None:
    """Inside a step: has a host start the operation's VM, and records that it runs."""
    vm = load(run.resource_id)
    request = agent_pb2.StartVmRequest(operation=run.ref(), spec=wire.spec(vm, run.keys))
    update = run.job(address_of(host_id), lambda agent: agent.vms.StartVm, request, share)
    power_state = wire.power_word(update.vm.power_state) or "running"
    set_state(vm.id, "running", power_state=power_state, last_host=host_id)


def push_withdrawal(run: Run, undo: Undo, host_id: str) -> None:
    """Undoes a start: "plug" takes the VM off the host, "forget" its definition."""
    undo.push("forget", lambda: forget_on(run, host_id))
    undo.push("plug", lambda: force_off(run, host_id))


def force_off(run: Run, host_id: str) -> None:
    """Inside a step: ends the operation's VM on a host at once; one that does not run there is a success."""
    request = agent_pb2.StopVmRequest(operation=run.ref(), vm_id=run.resource_id, timeout_s=0)
    run.job(address_of(host_id), lambda agent: agent.vms.StopVm, request)


def forget_on(run: Run, host_id: str) -> None:
    """Inside a step: has a host forget the operation's stopped VM; one that it does not know is a success."""
    request = agent_pb2.DeleteVmRequest(operation=run.ref(), vm_id=run.resource_id)
    run.job(address_of(host_id), lambda agent: agent.vms.DeleteVm, request)


def _settle(run: Run, undo: Undo) -> None:
    """What is surely gone from its host gives its place back; what may still be there keeps it, to be deleted."""
    with transaction():
        vm = load(run.resource_id)
        root: Any = Volume.get_or_none(Volume.id == run.inputs["volume_id"])
        off = not undo.failed("plug", "forget")
        clean = off and not undo.failed("remove-root")
        if off:
            capacity.release(vm)
        if root is not None and clean:
            delete_volume(root, run.user)
        elif root is not None:
            Volume.update(state="failed", state_reason=str(undo.error)).where(Volume.id == root.id).execute()
        if clean and isinstance(undo.error, CancelledError):
            Vm.delete().where(Vm.id == vm.id).execute()
        else:
            set_state(vm.id, "failed", power_state="" if not off else "absent", attention=f"not made: {undo.error}")
