"""Attaching, detaching and growing disks; encryption, UEFI, TPMs, network interfaces."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import replace

from ostler_common.errors import DeadlineExceededError, OstlerError
from ostler_common.hypervisors import Function
from ostler_common.io_limits import IoLimits
from ostler_common.secret import new_passphrase

from ostler_agent.conformance.assertions import CheckFailedError, SkippedError, refused, require
from ostler_agent.conformance.bench import MIB, Bench, NeverCancelled, new_id
from ostler_agent.hypervisors.base import DiskLimits, GuestAddresses, NicHotPlug, NicLink
from ostler_agent.hypervisors.firmware import FirmwareStates
from ostler_agent.hypervisors.guest import GuestAgent
from ostler_agent.spec import (
    DiskSpec,
    ExtraConfig,
    Firmware,
    FirmwareCopy,
    FirmwareState,
    Key,
    KeyUse,
    NicSpec,
    PowerState,
)
from ostler_agent.tools import iso, qemu_img

GO_TIMEOUT_S = 60.0


def plug_stopped(bench: Bench) -> None:
    """A stopped VM's definition gains and loses disks."""
    hypervisor, plug, data = bench.hypervisor, bench.hot_plug(), bench.volume()
    spec = bench.spec(bench.volume())
    hypervisor.define(spec, bench.paths)
    root_id = spec.disks[0].volume.volume_id
    for _ in range(2):
        plug.attach(spec.vm_id, DiskSpec(data, 1), bench.paths(data))
        require(
            hypervisor.vm(spec.vm_id).volume_ids == (root_id, data.volume_id), "the VM must have the disk exactly once"
        )
    require(hypervisor.using(data.volume_id) is None, "a stopped VM uses no volume")
    for _ in range(2):
        plug.detach(spec.vm_id, data.volume_id, None, 1, NeverCancelled())
        require(hypervisor.vm(spec.vm_id).volume_ids == (root_id,), "the VM must not have the disk any more")


def plug_running(bench: Bench) -> None:
    """A running VM gains disks, each once and in its own slot, and keeps them for its next start."""
    hypervisor, plug, spec = bench.hypervisor, bench.hot_plug(), bench.start()
    data, other = bench.volume(), bench.volume()
    volumes = (spec.disks[0].volume.volume_id, data.volume_id)
    for _ in range(2):
        plug.attach(spec.vm_id, DiskSpec(data, 1), bench.paths(data))
        require(hypervisor.vm(spec.vm_id).volume_ids == volumes, "the VM must have the disk exactly once")
    require(hypervisor.using(data.volume_id) == spec.vm_id, "`using` must return the VM")
    with refused("another disk in a taken slot", "SLOT_TAKEN"):
        plug.attach(spec.vm_id, DiskSpec(other, 1), bench.paths(other))
    with refused("a disk in a second slot", "VOLUME_ATTACHED"):
        plug.attach(spec.vm_id, DiskSpec(data, 2), bench.paths(data))
    bench.paths(other).unlink()
    with refused("a disk whose file is missing"):
        plug.attach(spec.vm_id, DiskSpec(other, 2), bench.paths(other))
    require(hypervisor.vm(spec.vm_id).volume_ids == volumes, "a refused call must change nothing")
    require(hypervisor.using(other.volume_id) is None, "a refused call must change nothing")
    hypervisor.power_off(spec.vm_id)
    require(hypervisor.vm(spec.vm_id).volume_ids == volumes, "the stopped VM must keep the disks that it gained")


def unplug_unheard(bench: Bench) -> None:
    """A guest that does not respond keeps its disk: detach times out, and works once the VM is off."""
    hypervisor, plug, spec, data = bench.hypervisor, bench.hot_plug(), bench.start(), bench.volume()
    plug.attach(spec.vm_id, DiskSpec(data, 1), bench.paths(data))
    gone = False
    for _ in range(2):
        try:
            plug.detach(spec.vm_id, data.volume_id, None, 1, NeverCancelled())
            gone = True  # some hypervisors need no cooperation of the guest
        except DeadlineExceededError as error:
            require(error.reason == "DETACH_TIMEOUT" and not gone, "detach must raise DETACH_TIMEOUT")
    kept = data.volume_id in hypervisor.vm(spec.vm_id).volume_ids
    require(kept is not gone, "the VM must have the disk if and only if it was not detached")
    require(
        (hypervisor.using(data.volume_id) is None) is gone, "`using` must return the VM if and only if it has the disk"
    )
    hypervisor.power_off(spec.vm_id)
    plug.detach(spec.vm_id, data.volume_id, None, 1, NeverCancelled())
    require(data.volume_id not in hypervisor.vm(spec.vm_id).volume_ids, "detach must work on the stopped VM")


def guest_unplug(bench: Bench) -> None:
    """A booted guest releases a disk, which another VM can then use."""
    hypervisor, plug, data = bench.hypervisor, bench.hot_plug(), bench.volume()
    spec, _ = bench.guest()
    for _ in range(2):
        plug.attach(spec.vm_id, DiskSpec(data, 1), bench.paths(data))
        for _ in range(2):
            plug.detach(spec.vm_id, data.volume_id, None, GO_TIMEOUT_S, NeverCancelled())
        require(data.volume_id not in hypervisor.vm(spec.vm_id).volume_ids, "the VM must not have the disk any more")
        other = bench.start(bench.spec(data))
        require(hypervisor.using(data.volume_id) == other.vm_id, "another VM must be able to use the disk")
        hypervisor.power_off(other.vm_id)


def grow(bench: Bench) -> None:
    """A running VM's disk grows and never shrinks."""
    spec, grower = bench.start(), bench.online_grow()
    volume = spec.disks[0].volume
    for _ in range(2):
        grower.grow_disk(spec.vm_id, volume.volume_id, 24 * MIB)
    with refused("shrinking", "VOLUME_SHRINK"):
        grower.grow_disk(spec.vm_id, volume.volume_id, 16 * MIB)
    with refused("growing a disk that is not attached", "VOLUME_NOT_ATTACHED"):
        grower.grow_disk(spec.vm_id, new_id(), 24 * MIB)
    size_bytes = qemu_img.info(bench.paths(volume), volume.format).virtual_size_bytes
    require(size_bytes == 24 * MIB, f"the image must have 24 MiB, not {size_bytes} bytes")
    bench.hypervisor.power_off(spec.vm_id)
    with refused("growing a stopped VM's disk", "VM_NOT_RUNNING"):
        grower.grow_disk(spec.vm_id, volume.volume_id, 32 * MIB)


def limit_disk(bench: Bench) -> None:
    """A VM starts with a limited disk; the limits of a running VM's disk change and end."""
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, DiskLimits)
    limits = IoLimits(iops=200, bytes_per_s=8 * MIB, burst_iops=400, burst_bytes_per_s=16 * MIB, burst_s=10)
    spec = bench.spec(bench.volume())
    spec = bench.start(replace(spec, disks=(replace(spec.disks[0], limits=limits, ignore_discard=True),)))
    volume_id = spec.disks[0].volume.volume_id
    for wanted in (IoLimits(iops=100), limits, limits, IoLimits(bytes_per_s=4 * MIB), IoLimits(), IoLimits()):
        hypervisor.limit_disk(spec.vm_id, volume_id, wanted)
    with refused("limiting a disk that is not attached", "VOLUME_NOT_ATTACHED"):
        hypervisor.limit_disk(spec.vm_id, new_id(), limits)
    bench.hypervisor.power_off(spec.vm_id)
    with refused("limiting a stopped VM's disk", "VM_NOT_RUNNING"):
        hypervisor.limit_disk(spec.vm_id, volume_id, limits)


def encryption(bench: Bench) -> None:
    """A VM with an encrypted volume starts with its key only."""
    bench.need_probe(Function.VOLUME_ENCRYPTION)
    key = Key(str(uuid.uuid4()), new_passphrase())
    spec = bench.spec(bench.volume(key=key))
    wrong = replace(spec.disks[0].volume, key=Key(str(uuid.uuid4()), new_passphrase()))
    with refused("starting with a wrong key", "WRONG_KEY"):
        bench.hypervisor.start(replace(spec, disks=(replace(spec.disks[0], volume=wrong),)), bench.paths)
    require(not bench.hypervisor.running(spec.vm_id), "the VM must not run")
    for _ in range(2):
        bench.start(spec)
        require(bench.hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING, "the VM must run")
        bench.hypervisor.power_off(spec.vm_id)


def uefi(bench: Bench) -> None:
    """A VM with UEFI starts, and is deleted with its firmware variables."""
    bench.need_probe(Function.UEFI)
    spec = replace(bench.spec(bench.volume()), firmware=Firmware.UEFI)
    for _ in range(2):
        bench.start(spec)
        bench.hypervisor.power_off(spec.vm_id)
        bench.hypervisor.delete(spec.vm_id)


def secure_boot(bench: Bench) -> None:
    """A VM with secure boot starts, and is deleted with its firmware variables."""
    bench.need_probe(Function.UEFI)
    bench.need_probe(Function.SECURE_BOOT)
    spec = replace(bench.spec(bench.volume()), firmware=Firmware.UEFI_SECURE_BOOT)
    for _ in range(2):
        bench.start(spec)
        bench.hypervisor.power_off(spec.vm_id)
        bench.hypervisor.delete(spec.vm_id)


def tpm(bench: Bench) -> None:
    """A VM with a TPM keeps its state while it is stopped, encrypted under its key, and is deleted with it."""
    bench.need_probe(Function.TPM)
    spec = replace(bench.spec(bench.volume()), tpm_key=_tpm_key())
    for _ in range(2):
        bench.start(spec)
        bench.hypervisor.power_off(spec.vm_id)
    other = replace(spec, tpm_key=_tpm_key())
    try:
        bench.start(other)
    except OstlerError:
        require(not bench.hypervisor.running(spec.vm_id), "the VM must not run")
    else:
        raise CheckFailedError("the state of the TPM must not open with another key")
    bench.hypervisor.delete(spec.vm_id)
    bench.start(other)  # with a new TPM
    bench.hypervisor.power_off(spec.vm_id)
    bench.hypervisor.delete(spec.vm_id)


def firmware_state(bench: Bench) -> None:
    """The state of a TPM is read, and a VM that has none on this host starts with the copy."""
    bench.need_probe(Function.TPM)
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, FirmwareStates)
    require(hypervisor.read_firmware_state(new_id()) == FirmwareState(), "an unknown VM has nothing")
    spec = replace(bench.spec(bench.volume()), tpm_key=_tpm_key())
    bench.start(spec)
    hypervisor.power_off(spec.vm_id)
    state = hypervisor.read_firmware_state(spec.vm_id)
    require(state.tpm, "the state of the TPM must be read")
    hypervisor.delete(spec.vm_id)
    require(hypervisor.read_firmware_state(spec.vm_id) == FirmwareState(), "nothing must be left of a deleted VM")
    hypervisor.place_firmware_state(spec.vm_id, FirmwareCopy(new_id(), state))
    hypervisor.delete(spec.vm_id)
    require(hypervisor.read_firmware_state(spec.vm_id) == FirmwareState(), "a copy must go with its VM, started or not")
    for _ in range(2):
        hypervisor.place_firmware_state(spec.vm_id, FirmwareCopy(new_id(), state))
    require(hypervisor.read_firmware_state(spec.vm_id).tpm == state.tpm, "the copy must be in place")
    bench.start(spec)  # the key opens it
    hypervisor.power_off(spec.vm_id)
    hypervisor.delete(spec.vm_id)


def _tpm_key() -> Key:
    return Key(str(uuid.uuid4()), new_passphrase(), use=KeyUse.TPM)


def nics(bench: Bench) -> None:
    """A VM with a network interface starts."""
    if not bench.setup.bridge:
        raise SkippedError("needs a bridge (--bridge NAME)")
    spec = bench.spec(bench.volume(), nics=[NicSpec("52:54:00:c0:ff:01", bench.setup.bridge)])
    for _ in range(2):
        bench.start(spec)
        require(bench.hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING, "the VM must run")
        bench.hypervisor.power_off(spec.vm_id)


def plug_nic(bench: Bench) -> None:
    """A running VM gets a network interface once, however often it is added; a guest that does not respond keeps it."""
    if not bench.setup.bridge:
        raise SkippedError("needs a bridge (--bridge NAME)")
    assert isinstance(bench.hypervisor, NicHotPlug)
    spec, nic = bench.start(), NicSpec("52:54:00:c0:ff:02", bench.setup.bridge)
    for _ in range(2):
        bench.hypervisor.attach_nic(spec.vm_id, nic)
    with contextlib.suppress(DeadlineExceededError):
        bench.hypervisor.detach_nic(spec.vm_id, nic.mac, 1, NeverCancelled())
    bench.hypervisor.power_off(spec.vm_id)
    for _ in range(2):
        bench.hypervisor.detach_nic(spec.vm_id, nic.mac, 1, NeverCancelled())


def nic_link(bench: Bench) -> None:
    """The link of a running VM's interface goes down and up, each as often as it is set; a VM starts with it down."""
    if not bench.setup.bridge:
        raise SkippedError("needs a bridge (--bridge NAME)")
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, NicLink)
    nic = NicSpec("52:54:00:c0:ff:03", bench.setup.bridge, link_down=True)
    spec = bench.start(bench.spec(bench.volume(), nics=[nic]))
    for up in (True, True, False, False):
        hypervisor.set_nic_link(spec.vm_id, nic.mac, up)
    with refused("the link of an interface that the VM does not have", "NIC_NOT_FOUND"):
        hypervisor.set_nic_link(spec.vm_id, "52:54:00:c0:ff:04", up=True)
    bench.hypervisor.power_off(spec.vm_id)
    with refused("the link of a stopped VM", "VM_NOT_RUNNING"):
        hypervisor.set_nic_link(spec.vm_id, nic.mac, up=True)


def guest_addresses(bench: Bench) -> None:
    """A guest that does not respond has no addresses, and neither has a stopped VM."""
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, GuestAddresses)
    spec = bench.start()
    require(hypervisor.guest_addresses(spec.vm_id) == [], "a VM without interfaces has no addresses")
    bench.hypervisor.power_off(spec.vm_id)
    for vm_id in (spec.vm_id, new_id()):
        require(hypervisor.guest_addresses(vm_id) == [], "a VM that does not run has no addresses")


def guest_agent(bench: Bench) -> None:
    """A guest without an agent, and a stopped VM, are refused by name; the VM keeps running."""
    hypervisor = bench.hypervisor
    assert isinstance(hypervisor, GuestAgent)
    spec = bench.start()
    calls = (hypervisor.guest_info, hypervisor.set_guest_time, hypervisor.shut_down_guest)
    for call in calls:
        with refused("asking a guest agent that does not run", "GUEST_AGENT_MISSING"):
            call(spec.vm_id)
    require(bench.hypervisor.running(spec.vm_id), "the VM must keep running")
    bench.hypervisor.power_off(spec.vm_id)
    for call in calls:
        with refused("asking the guest agent of a stopped VM", "VM_NOT_RUNNING"):
            call(spec.vm_id)


def user_data(bench: Bench) -> None:
    """A VM with a read-only CD-ROM starts, and starts again without it."""
    spec = bench.spec(bench.volume())
    image = bench.setup.scratch / f"{spec.vm_id}.iso"
    image.write_bytes(iso.build("cidata", {"user-data": b"#cloud-config\n"}))
    for cdrom in (image, image, None):
        bench.start(replace(spec, cdrom=cdrom))
        require(bench.hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING, "the VM must run")
        bench.hypervisor.power_off(spec.vm_id)
        if cdrom is None:
            image.unlink()


def extra_config(bench: Bench) -> None:
    """A VM with extra configuration starts; one whose extra configuration is not libvirt's is refused."""
    spec = bench.spec(bench.volume())
    with refused("extra configuration that libvirt does not know", "EXTRA_CONFIG_INVALID"):
        bench.hypervisor.start(replace(spec, extra=ExtraConfig(("<os><novelty/></os>",))), bench.paths)
    require(not bench.hypervisor.running(spec.vm_id), "it must not run")
    bench.start(replace(spec, extra=ExtraConfig(("<os><bootmenu enable='yes' timeout='1'/></os>",))))
    require(bench.hypervisor.vm(spec.vm_id).power_state is PowerState.RUNNING, "it must run")
    bench.hypervisor.power_off(spec.vm_id)
