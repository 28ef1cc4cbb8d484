"""Which parts of a domain reach the host beyond the VM: its files, devices, networks, programs.

The table lists what is harmless; all else reaches the host. So an element that a new release of libvirt brings is
refused until somebody has thought about it. Source: libvirt's domain XML format and its RELAX NG schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ostler_common.xml_fragment import Node

Path = tuple[str, ...]


@dataclass(frozen=True)
class Harmless:
    """What an element may have without reaching the host.

    attributes: their names, None for any; values: what some attributes must be when they are there;
    required: attributes that must be there; text: whether there may be any, without a path where any attribute may be.
    A value with a slash in it is never harmless.
    """

    attributes: frozenset[str] | None = frozenset()
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    text: bool = False

    def holds(self, node: Node) -> bool:
        """Whether an element has no more than that."""
        return (
            (self.attributes is None or node.attributes.keys() <= self.attributes)
            # Not even where libvirt makes a name a part of a path: the name of a channel, of an alias.
            and not any("/" in value for value in node.attributes.values())
            and self.required <= node.attributes.keys()
            and all(
                node.attributes[name] in allowed for name, allowed in self.values.items() if name in node.attributes
            )
            and (not node.text or (self.text and (self.attributes is not None or "/" not in node.text)))
        )


def _numbers(paths: str, text: bool = False) -> dict[str, Harmless]:
    """Elements whose attributes, and text, are numbers and words about the guest only, whatever they are."""
    return dict.fromkeys(paths.split(), Harmless(attributes=None, text=text))


def _some(attributes: str = "", text: bool = False, **values: str) -> Harmless:
    """These attributes, and those in `values`, which must be there with one of the given words."""
    allowed = {name: frozenset(words.split()) for name, words in values.items()}
    return Harmless(frozenset(attributes.split()) | allowed.keys(), allowed, frozenset(allowed), text)


def _optional(attributes: str = "", text: bool = False, **values: str) -> Harmless:
    """The same, but those in `values` may be missing."""
    allowed = {name: frozenset(words.split()) for name, words in values.items()}
    return Harmless(frozenset(attributes.split()) | allowed.keys(), allowed, text=text)


_VIRTIO = "iommu ats packed page_per_vq"
_CPU = """
    cpu cpu/topology cpu/feature cpu/cache cpu/maxphysaddr cpu/numa cpu/numa/cell cpu/numa/cell/distances
    cpu/numa/cell/distances/sibling cpu/numa/cell/cache cpu/numa/cell/cache/size cpu/numa/cell/cache/line
    cpu/numa/interconnects cpu/numa/interconnects/latency cpu/numa/interconnects/bandwidth
"""
_FEATURES = """
    features/acpi features/apic features/pae features/hap features/viridian features/pvspinlock features/pmu
    features/vmport features/smm features/ioapic features/vmcoreinfo features/msrs
    features/kvm features/kvm/hidden features/kvm/hint-dedicated features/kvm/poll-control features/kvm/pv-ipi
    features/hyperv features/hyperv/relaxed features/hyperv/vapic features/hyperv/spinlocks features/hyperv/vpindex
    features/hyperv/runtime features/hyperv/synic features/hyperv/stimer features/hyperv/stimer/direct
    features/hyperv/reset features/hyperv/vendor_id features/hyperv/frequencies features/hyperv/reenlightenment
    features/hyperv/tlbflush features/hyperv/ipi features/hyperv/evmcs features/hyperv/avic
"""
_SYSINFO = """
    sysinfo/bios/entry sysinfo/system/entry sysinfo/baseBoard/entry sysinfo/chassis/entry sysinfo/oemStrings/entry
"""
_TUNING = """
    cputune/shares cputune/period cputune/quota cputune/global_period cputune/global_quota cputune/emulator_period
    cputune/emulator_quota cputune/vcpupin cputune/emulatorpin cputune/iothreadpin
"""

_DEVICES: dict[str, Harmless] = {
    "video": _optional(),
    # A render node is a device of the host's GPU; driver vhostuser is a program that runs beside QEMU.
    "video/model": _optional("type ram vram vram64 vgamem heads primary"),
    "video/model/resolution": _optional("x y"),
    "video/driver": _optional(f"vgaconf {_VIRTIO}", name="qemu"),
    "sound": _optional("model"),
    "sound/codec": _optional("type"),
    # The action dump writes the guest's memory into a file of the host.
    "watchdog": _optional("model", action="reset shutdown poweroff pause none inject-nmi"),
    "memballoon": _optional("model autodeflate freePageReporting"),
    "memballoon/stats": _optional("period"),
    "memballoon/driver": _optional(_VIRTIO),
    # The other models read a file, or a socket.
    "rng": _optional("model"),
    "rng/backend": _some(model="builtin"),
    "rng/rate": _optional("bytes period"),
    "rng/driver": _optional(_VIRTIO),
    "input": _some("bus model", type="tablet mouse keyboard"),
    "input/driver": _optional(_VIRTIO),
    "panic": _optional("model"),
    "iommu": _optional("model"),
    "iommu/driver": _optional("intremap caching_mode eim iotlb aw_bits"),
    "controller": _some("index model ports vectors", type="usb scsi sata ide fdc pci virtio-serial ccid isa"),
    "controller/model": _optional("name"),
    "controller/target": _optional("chassisNr chassis port busNr index hotplug"),
    "controller/master": _optional("startport"),
    "controller/driver": _optional(f"queues cmd_per_lun max_sectors ioeventfd {_VIRTIO}"),
    # libvirt keeps the state of an emulated TPM itself, and sets up its process.
    "tpm": _optional("model"),
    "tpm/backend": _some("version persistent_state", type="emulator"),
    **_numbers("tpm/backend/active_pcr_banks"),
    **_numbers(" ".join(f"tpm/backend/active_pcr_banks/{bank}" for bank in ("sha1", "sha256", "sha384", "sha512"))),
    # Without a source libvirt chooses the socket, in a directory of its own.
    "channel": _some(type="unix spicevmc"),
    "channel/target": _some("name", type="virtio"),
    "interface/driver": _optional(
        f"queues rx_queue_size tx_queue_size txmode ioeventfd event_idx rss rss_hash_report {_VIRTIO}",
        name="vhost qemu",
    ),
    **_numbers("interface/driver/host interface/driver/guest"),
    "interface/model": _optional("type"),
    "interface/mtu": _optional("size"),
    "interface/link": _optional("state"),
}
_DEVICE_PARTS = {"alias": _optional("name"), "acpi": _optional("index"), "address": Harmless(attributes=None)}
_TABLE: dict[str, Harmless] = {
    "description": _some(text=True),
    **_numbers(_CPU),
    **_numbers("cpu/model cpu/vendor", text=True),
    **_numbers("clock clock/timer clock/timer/catchup"),
    **_numbers("pm pm/suspend-to-mem pm/suspend-to-disk"),
    "features": _optional(),
    **_numbers(_FEATURES),
    **_numbers("features/smm/tseg", text=True),
    "os": _optional(),
    "os/bootmenu": _optional("enable timeout"),
    "os/bios": _optional("useserial rebootTimeout"),
    "os/smbios": _some(mode="emulate sysinfo"),
    # Type fwcfg can name a file.
    "sysinfo": _some(type="smbios"),
    **_numbers("sysinfo/bios sysinfo/system sysinfo/baseBoard sysinfo/chassis sysinfo/oemStrings"),
    **{path: _optional("name", text=True) for path in _SYSINFO.split()},
    "cputune": _optional(),
    **_numbers(_TUNING, text=True),
    **_numbers("numatune numatune/memory numatune/memnode"),
    "memoryBacking": _optional(),
    **_numbers("memoryBacking/hugepages memoryBacking/hugepages/page"),
    "memoryBacking/nosharepages": _optional(),
    "memoryBacking/source": _some(type="anonymous memfd"),
    "memoryBacking/access": _optional("mode"),
    "memoryBacking/allocation": _optional("mode"),
    "memoryBacking/discard": _optional(),
    "devices": _optional(),
    **{f"devices/{path}": harmless for path, harmless in _DEVICES.items()},
}

_REASONS: dict[str, str] = {
    "blkiotune": "names a device of the host",
    "bootloader": "runs a program on the host",
    "cputune": "takes CPU time or cache from the host",
    "devices/audio": "reads or writes a file, a device or a sound server of the host",
    "devices/channel": "connects to a file, a socket or a port of the host",
    "devices/console": "connects to a file, a device, a socket or a port of the host",
    "devices/disk": "gives the VM a file, a device or a network address of the host",
    "devices/emulator": "names the program that runs on the host",
    "devices/filesystem": "gives the VM a directory of the host",
    "devices/graphics": "opens a port or a device of the host",
    "devices/hostdev": "gives the VM a device of the host",
    "devices/input": "reads a device of the host",
    "devices/interface": "connects to a network, a device or a socket of the host, or runs a program there",
    "devices/lease": "uses a lock of the host",
    "devices/memory": "can name a file of the host",
    "devices/parallel": "connects to a file, a device, a socket or a port of the host",
    "devices/pstore": "names a file of the host",
    "devices/redirdev": "connects to a device, a socket or a port of the host",
    "devices/rng": "reads a file, a socket or a port of the host",
    "devices/serial": "connects to a file, a device, a socket or a port of the host",
    "devices/shmem": "shares memory with the host",
    "devices/smartcard": "reads certificates, a device or a socket of the host",
    "devices/tpm": "uses a device, a secret or a socket of the host",
    "devices/video": "uses the host's GPU, or runs a program on the host",
    "devices/vsock": "connects to programs of the host",
    "devices/watchdog": "writes the guest's memory into a file of the host",
    "idmap": "maps users of the host",
    "launchSecurity": "reads the host's certificates or keys",
    "memoryBacking": "places memory into a file of the host, or locks the host's memory",
    "on_crash": "can write the guest's memory into a file of the host",
    "os": "names a file of the host, or tells what the host is",
    "perf": "measures the host",
    "qemu:": "adds to the command line of a program that runs on the host",
    "resource": "chooses a control group of the host",
    "seclabel": "changes how the host confines the VM",
    "sysinfo": "can name a file of the host",
}
_UNKNOWN = "is not known to stay inside the VM"


def find_host_access(path: Path, node: Node) -> str:
    """How the element at this path reaches the host, as the end of a sentence; "" when it does not.

    path: from below <domain>, the element's own name included. Elements inside it are not looked at.
    """
    if any(name.startswith("qemu:") for name in path):
        return _REASONS["qemu:"]
    harmless = _TABLE.get("/".join(path)) or (_DEVICE_PARTS.get(path[-1]) if _is_device_part(path) else None)
    if harmless is not None and harmless.holds(node):
        return ""
    return _reason(path)


def _is_device_part(path: Path) -> bool:
    return len(path) == 3 and path[0] == "devices" and "/".join(path[:2]) in _TABLE


def _reason(path: Path) -> str:
    prefixes: Iterable[str] = ("/".join(path[:depth]) for depth in range(len(path), 0, -1))
    return next((_REASONS[prefix] for prefix in prefixes if prefix in _REASONS), _UNKNOWN)
