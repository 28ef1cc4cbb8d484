"""VMs for tests of the libvirt driver: their images, their specs, and what they say on the console."""

from __future__ import annotations

import hashlib
import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ostler_agent.hypervisors.base import Console, VmEvent
from ostler_agent.spec import DiskFormat, DiskSpec, Key, NicSpec, VmSpec, VolumeRef
from ostler_agent.tools import qemu_img
from ostler_common.secret import new_passphrase

from tests.lab.guest import guest_image
from tests.lab.host import SHARED, Host

MIB = 1 << 20
POOL = str(uuid.uuid4())
BRIDGE = "br0"  # every lab host has it


def new_id() -> str:
    return str(uuid.uuid4())


def new_key() -> Key:
    """A key with an id and a passphrase of its own."""
    return Key(new_id(), new_passphrase())


PASSPHRASE = new_passphrase()


def volume(*, encrypted: bool = True, layout: DiskFormat = DiskFormat.QCOW2, key: Key | None = None) -> VolumeRef:
    return VolumeRef(POOL, new_id(), layout, key or (Key(new_id(), PASSPHRASE) if encrypted else None))


def empty_image(host: Host, ref: VolumeRef, size_bytes: int = 16 * MIB, directory: str = SHARED) -> VolumeRef:
    """Makes the volume's file. Those of one passphrase are copies of one: it takes a second or two to make a header."""
    made = host.outside(f"/run/images/{ref.format}-{_digest(ref.key)}-{size_bytes}")
    if not made.exists():
        made.parent.mkdir(exist_ok=True)
        qemu_img.create(made, ref.format, size_bytes, key=ref.key)
    shutil.copyfile(made, host.outside(f"{directory}/{ref.volume_id}"))
    return ref


def _digest(key: Key | None) -> str:
    return hashlib.sha256(key.passphrase.reveal()).hexdigest() if key and key.passphrase else "plain"


def guest_disk(host: Host, ref: VolumeRef, directory: str = SHARED) -> VolumeRef:
    """The lab's bootable guest, in a volume of its own."""
    target = host.outside(f"{directory}/{ref.volume_id}")
    qemu_img.convert(guest_image(), DiskFormat.QCOW2, target, ref.format, key=ref.key)
    return ref


def in_directory(directory: str) -> Callable[[VolumeRef], Path]:
    """Where the host sees its volumes."""
    return lambda ref: Path(directory, ref.volume_id)


in_shared = in_directory(SHARED)


def spec(*disks: VolumeRef, nics: int = 0, name: str = "guest") -> VmSpec:
    """A VM with these disks; the first one boots."""
    return VmSpec(
        vm_id=new_id(),
        name=name,
        cpus=1,
        memory_bytes=128 * MIB,
        disks=tuple(DiskSpec(ref, slot, boot=slot == 0) for slot, ref in enumerate(disks)),
        nics=tuple(NicSpec(f"52:54:00:00:00:{number:02x}", BRIDGE) for number in range(nics)),
    )


def secrets_on(host: Host) -> set[str]:
    """UUIDs of libvirt's secrets on a host."""
    return {line.split()[0] for line in host.virsh("secret-list").splitlines() if line.strip()}


def expect(console: Console, text: str, timeout_s: float = 90) -> str:
    """Reads the console until it shows a text; raises `TimeoutError` with all that it showed."""
    seen = b""
    over = threading.Timer(timeout_s, console.close)
    over.start()
    try:
        while text.encode() not in seen:
            data = console.read()
            if not data:
                raise TimeoutError(f"no {text!r} on the console, only {seen.decode(errors='replace')!r}")
            seen += data
    finally:
        over.cancel()
    return seen.decode(errors="replace")


@dataclass
class RecordedProgress:
    """A job's view that notes what it is told, and can be cancelled."""

    phases: list[str] = field(default_factory=list)
    percents: list[int] = field(default_factory=list)
    error: Exception | None = None
    on_progress: Callable[[str, int | None], None] = lambda phase, percent: None

    def report(self, phase: str, done: int = 0, total: int = 0, percent: int | None = None) -> None:
        self.phases.append(phase)
        if percent is not None:
            self.percents.append(percent)
        self.on_progress(phase, percent)

    def check(self) -> None:
        if self.error:
            raise self.error


@dataclass
class RecordingListener:
    """A listener that remembers."""

    events: list[VmEvent] = field(default_factory=list)
    reconnections: int = 0

    def vm_event(self, event: VmEvent) -> None:
        self.events.append(event)

    def reconnected(self) -> None:
        self.reconnections += 1

    def received(self, vm_id: str) -> list[tuple[str, str]]:
        """Kind and detail of each event of a VM."""
        return [(event.kind.value, event.detail) for event in list(self.events) if event.vm.vm_id == vm_id]
