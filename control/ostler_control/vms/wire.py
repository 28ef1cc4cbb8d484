"""VMs in the agents' messages: rows in, protobuf out, and power states back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ostler.agent.v1 import vm_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2, volume_pb2
from ostler_common.io_limits import to_message
from peewee import Model

from ostler_control.agents import Agents, HostAddress
from ostler_control.catalog import disk_io
from ostler_control.catalog.firmware import FIRMWARES
from ostler_control.catalog.sizes import maximum_of, size_of
from ostler_control.database import session
from ostler_control.keys import Keyring
from ostler_control.models import (
    Nic,
    OfferingDetail,
    OfferingExtraConfig,
    TemplateDetail,
    Vm,
    VmDetail,
    VmExtraConfig,
    VmIso,
    VmMachine,
    VmMaximum,
    VmTpm,
    VmUserData,
    Volume,
    VolumeLimits,
    owners,
)
from ostler_control.userdata import addressing, vm_user_data
from ostler_control.userdata.seed import DHCP
from ostler_control.vms import driver_details, extra_configs, isos, machines, tpm
from ostler_control.vms.rows import disks_of, down_of, nics_of
from ostler_control.volumes import wire


def spec(
    vm: Vm, keys: Keyring | None, pools: Mapping[str, str] | None = None, disks: Sequence[Volume] | None = None
) -> vm_pb2.VmSpec:
    """The VM as a host needs it. keys: brings the passphrases of its volumes, and what its guest reads at boot, for the
    call that this is made for.

    pools: the pool of those volumes that are, or will be, elsewhere than their rows say; disks: its volumes, if they
    were read already.
    """
    moved = pools or {}

    def ref(volume: Volume) -> volume_pb2.VolumeRef:
        pool_id = moved.get(volume.id, "")
        return wire.keyed_ref(volume, keys, pool_id=pool_id) if keys else wire.plain_ref(volume, pool_id)

    with session():
        disks = disks_of(vm.id) if disks is None else disks
        having = _tables_with_rows(vm, disks)
        most = maximum_of(vm) if having[VmMaximum] else size_of(vm)
        io = disk_io.of_volumes(disks, having[VolumeLimits])
        given = having[VmDetail] or having[TemplateDetail] or having[OfferingDetail]
        details = driver_details.merged(vm) if given else {}
        extended = having[VmExtraConfig] or having[OfferingExtraConfig]
        extra_config = extra_configs.to_wire(vm) if extended else vm_pb2.ExtraConfig()
        interfaces = nics(vm.id) if having[Nic] else []
        cdroms = isos.to_wire(vm.id) if having[VmIso] else []
        machine = machines.of_vm(vm.id) if having[VmMachine] else ""
    return vm_pb2.VmSpec(
        vm_id=vm.id,
        name=vm.name,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        firmware=FIRMWARES[vm.firmware],
        disks=[
            vm_pb2.DiskSpec(
                volume=ref(volume),
                slot=volume.slot,
                boot=bool(volume.root),
                serial=volume.id,
                limits=to_message(io[volume.id].limits) if io[volume.id].limits else None,
                ignore_discard=io[volume.id].ignore_discard,
            )
            for volume in disks
        ],
        nics=interfaces,
        extra_config=extra_config,
        seed=_seed(vm, keys) if keys and having[VmUserData] else None,
        details=details,
        max_cpus=most.cpus,
        max_memory_bytes=most.memory_bytes,
        cdroms=cdroms,
        machine=machine,
        tpm=tpm.to_wire(vm.id, keys) if having[VmTpm] else None,
    )


def _tables_with_rows(vm: Vm, disks: Sequence[Volume]) -> Mapping[type[Model], list[str]]:
    """Of what a VM may have beside disks, what it has: by one statement, for most have little of it."""
    own = (Nic.vm, VmDetail.vm, VmExtraConfig.vm, VmIso.vm, VmMachine.vm, VmMaximum.vm, VmTpm.vm, VmUserData.vm)
    offering_ids, template_ids = [vm.service_offering_id], [vm.template_id] if vm.template_id else []
    return owners(
        *((column, [vm.id]) for column in own),
        (OfferingDetail.service_offering, offering_ids),
        (OfferingExtraConfig.service_offering, offering_ids),
        (TemplateDetail.template, template_ids),
        (VolumeLimits.volume, [volume.id for volume in disks]),
    )


def _seed(vm: Vm, keys: Keyring) -> vm_pb2.Seed | None:
    with session():
        seed = vm_user_data.seed_of(vm, keys)
    if seed is None:
        return None
    return vm_pb2.Seed(files=[vm_pb2.Seed.File(name=name, content=data) for name, data in seed.files().items()])


def nics(vm_id: str) -> list[vm_pb2.NicSpec]:
    """A VM's network interfaces as a host needs them."""
    with session():
        rows = nics_of(vm_id)
        static = addressing.of_nics([nic.id for nic in rows])
        down = down_of([nic.id for nic in rows])
    return [
        vm_pb2.NicSpec(
            mac=nic.mac,
            bridge=nic.network.bridge,
            model=nic.model,
            vlan=nic.network.vlan,
            mtu=nic.network.mtu,
            filter=nic.network.spoof_filter,
            addresses=[address.partition("/")[0] for address in static.get(nic.id, DHCP).addresses],
            link_down=nic.id in down,
        )
        for nic in rows
    ]


def ask(agents: Agents, host: HostAddress, vm_id: str) -> vm_pb2.VmInfo:
    """What a host says of a VM; raises UnavailableError HOST_UNREACHABLE when it does not answer."""
    return agents.call(host, lambda agent: agent.vms.GetVm, agent_pb2.GetVmRequest(vm_id=vm_id))
