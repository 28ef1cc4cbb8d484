"""Imports from a KVM host: what is there, what to ask for, and what must not be left."""

from __future__ import annotations

import uuid
from typing import Any

from ostler.agent.v1 import remote_kvm_pb2 as pb
from ostler.types.v1 import vm_pb2, volume_pb2
from ostler_common.secret import Secret
from ostler_control.imports import kvm_source
from ostler_control.imports.record import record_import
from ostler_control.imports.wanted import Wanted
from ostler_control.models import (
    ImportDiskPassphrase,
    ImportSource,
    Nic,
    Operation,
    Passphrase,
    ServiceOffering,
    Vm,
    VmImport,
    VmOrigin,
    Volume,
    new_id,
)

from tests.fakes.remote_kvm import KNOWN_HOSTS, PRIVATE_KEY
from tests.sites import Site

MIB = 1 << 20
RUNNING, STOPPED = vm_pb2.POWER_STATE_RUNNING, vm_pb2.POWER_STATE_STOPPED


def new_source(name: str = "old1", key: bytes = PRIVATE_KEY) -> kvm_source.NewKvmSource:
    trust = kvm_source.SshTrust("root", KNOWN_HOSTS)
    return kvm_source.NewKvmSource(new_id(), name, "old1.example.org", Secret(key), trust)


def add_vm(site: Site, name: str, *, running: bool = False, encrypted: bool = False) -> pb.RemoteVm:
    """A VM with a disk on a base, and another one."""
    vm = pb.RemoteVm(
        vm_id=str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        name=name,
        power_state=RUNNING if running else STOPPED,
        cpus=1,
        memory_bytes=256 * MIB,
        firmware=vm_pb2.FIRMWARE_UEFI,
        os_id="http://debian.org/debian/12",
    )
    images = [
        pb.RemoteImage(path=f"/images/{name}.qcow2", format=volume_pb2.DISK_FORMAT_QCOW2, encrypted=encrypted),
        pb.RemoteImage(path="/images/base.raw", format=volume_pb2.DISK_FORMAT_RAW),
    ]
    vm.disks.add(target="vda", capacity_bytes=8 * MIB, encrypted=encrypted, images=images)
    data = pb.RemoteImage(path=f"/images/{name}-data.raw", format=volume_pb2.DISK_FORMAT_RAW)
    vm.disks.add(target="vdb", capacity_bytes=3 * MIB + 512, images=[data])
    vm.nics.add(mac=f"52:54:00:00:00:{len(site.fleet.kvm.vms):02x}", network="default", model="virtio")
    site.fleet.kvm.vms[name] = vm
    return vm


def wanted(site: Site, source: ImportSource, vm: str, **changes: Any) -> Wanted:
    fields: dict[str, Any] = {
        "account": site.account,
        "offering": ServiceOffering.get(ServiceOffering.name == "two"),
        "disk_offering": site.disks["plain"],
        "networks": {"default": site.network},
    }
    return Wanted(source, vm, **(fields | changes))


def record(site: Site, agents: Any, what: Wanted) -> Operation:
    """What the handler does."""
    assert what.source is not None
    vm = kvm_source.find_vm(what.source, site.keys, agents, what.source_vm)
    operation: Operation = site.record(lambda: record_import(what, vm, False, "root", site.keys))
    return operation


def check_nothing_left(site: Site, source: ImportSource) -> None:
    """Neither at the source, nor on hosts and pools, nor in the database."""
    assert site.fleet.kvm.copies == set()
    assert site.fleet.staging == {}
    assert VmImport.select().count() == ImportDiskPassphrase.select().count() == 0
    assert Vm.select().count() == Volume.select().count() == VmOrigin.select().count() == Nic.select().count() == 0
    assert site.fleet.files() == {}
    assert [key.id for key in Passphrase.select()] == [source.passphrase_id]
    assert all(not fake.vms for fake in site.fleet.hosts.values())
