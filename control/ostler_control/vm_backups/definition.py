"""What a backup keeps of a VM beside its disks."""

from __future__ import annotations

from dataclasses import dataclass, field

from ostler_control import labels
from ostler_control.extraconfig.names import is_reserved
from ostler_control.models import Vm
from ostler_control.operations.inputs import from_json, to_json
from ostler_control.vms import details, machines, tpm
from ostler_control.vms.rows import nics_of


@dataclass(frozen=True)
class BackedUpNic:
    """A network interface. network_name: for messages when the network is gone."""

    network_id: str
    network_name: str
    mac: str
    model: str


@dataclass(frozen=True)
class Definition:
    """A VM as it was. machine: the machine type that it kept, "" for none; tpm: whether it had one.

    Extra configuration and user data are not kept: the one was approved for that VM, the other holds secrets.
    """

    service_offering_id: str
    service_offering_name: str
    template_id: str
    template_name: str
    cpus: int
    memory_bytes: int
    firmware: str
    hypervisor_type: str
    nics: tuple[BackedUpNic, ...] = ()
    details: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    tpm: bool = False


def define(vm: Vm) -> str:
    """The JSON of a VM's definition."""
    kept = details.of_vms([vm.id]).get(vm.id, {})
    return to_json(
        Definition(
            service_offering_id=vm.service_offering_id,
            service_offering_name=vm.service_offering.name,
            template_id=vm.template_id or "",
            template_name=vm.template_name,
            cpus=vm.cpus,
            memory_bytes=vm.memory_bytes,
            firmware=vm.firmware,
            hypervisor_type=vm.hypervisor_type,
            nics=tuple(BackedUpNic(nic.network_id, nic.network.name, nic.mac, nic.model) for nic in nics_of(vm.id)),
            details={key: value for key, value in kept.items() if not is_reserved(key)},
            labels=labels.of_objects(Vm, [vm.id]).get(vm.id, {}),
            machine=machines.of_vm(vm.id),
            tpm=tpm.has_one(vm.id),
        )
    )


def read(text: str) -> Definition:
    """What `define` made."""
    return from_json(Definition, text)
