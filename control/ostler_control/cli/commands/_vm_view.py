"""How VMs, and the hosts that could take one, are printed."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.control.v1 import vm_pb2 as pb
from ostler.types.v1 import vm_pb2 as types

from ostler_control.cli import text
from ostler_control.cli.commands._vm_iso import drives
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.output import Section, View

STATES = ("creating", "stopped", "starting", "running", "stopping", "migrating", "deleting", "failed")


def _volumes(vm: pb.Vm) -> Sequence[Sequence[str]]:
    rows = [
        (text.disk(v.slot), v.volume_name, text.size(v.size_bytes), text.yes(v.encrypted), v.pool_name)
        for v in vm.volumes
    ]
    return [("disk", "volume", "size", "encrypted", "pool"), *rows]


def _nics(vm: pb.Vm) -> Sequence[Sequence[str]]:
    rows = [
        (n.mac, n.network, n.model or "virtio", "down" if n.link_down else "up", text.joined(n.addresses))
        for n in vm.nics
    ]
    return [("mac", "network", "model", "link", "addresses"), *rows]


def _seen_addresses(vm: pb.Vm) -> Sequence[Sequence[str]]:
    rows = [(a.address, a.mac, _SOURCES.get(a.source, "unknown")) for a in vm.seen_addresses]
    return [("address", "mac", "according to"), *rows]


_SOURCES = {
    types.SeenAddress.GUEST_AGENT: "guest agent",
    types.SeenAddress.NEIGHBOR_TABLE: "neighbor table of its host",
}


def _detail_rows(vm: pb.Vm) -> Sequence[Sequence[str]]:
    return [("key", "value"), *sorted(vm.details.items())]


def _drs(vm: pb.Vm) -> str:
    if not vm.live_migration:
        return f"none: {vm.hypervisor_display_name} does not migrate running VMs"
    return "disabled" if vm.drs_skip else "enabled"


def _how_encrypted(vm: pb.Vm) -> str:
    count = sum(volume.encrypted for volume in vm.volumes)
    return text.yes(bool(count)) if count in (0, len(vm.volumes)) else f"{count} of {len(vm.volumes)}"


VIEW = View[pb.Vm](
    "vm",
    columns=[
        ("name", lambda v: v.name),
        ("state", lambda v: text.enum_of(v, "state")),
        ("host", lambda v: v.host_name),
        ("cpus", lambda v: str(v.cpus)),
        ("memory", lambda v: text.size(v.memory_bytes)),
        ("disks", lambda v: text.size(sum(volume.size_bytes for volume in v.volumes))),
        ("encrypted", _how_encrypted),
        ("attention", lambda v: v.attention),
    ],
    details=[
        ("power state", lambda v: text.enum_of(v, "power_state")),
        ("in this state since", lambda v: text.when(v, "state_time")),
        ("account", lambda v: v.account_name),
        ("offering", lambda v: v.service_offering_name),
        ("may grow to", lambda v: f"{text.cpus(v.max_cpus)}, {text.size(v.max_memory_bytes)}"),
        ("template", lambda v: v.template_name),
        ("firmware", lambda v: text.enum_of(v, "firmware")),
        ("tpm", lambda v: text.yes(v.tpm)),
        ("machine", lambda v: v.machine),
        ("guest os", lambda v: v.guest_os),
        ("imported from", lambda v: v.imported_from),
        ("zone", lambda v: v.zone_name),
        ("cluster", lambda v: v.cluster_name),
        ("hypervisor", lambda v: v.hypervisor_display_name),
        ("affinity groups", lambda v: text.joined(v.affinity_groups)),
        ("drs", _drs),
        ("description", lambda v: v.description),
        ("labels", lambda v: labels_joined(v.labels)),
        ("created", lambda v: text.when(v, "create_time")),
        ("id", lambda v: v.id),
    ],
    sections=[
        Section("Disks", _volumes),
        Section("CD-ROM drives", drives),
        Section("Network", _nics),
        Section("Addresses that the guest claims", _seen_addresses),
        Section("Details", _detail_rows),
    ],
)
CANDIDATES = View[pb.FindHostsResponse.Candidate](
    "candidate",
    columns=[
        ("host", lambda c: c.host_name),
        ("fits", lambda c: text.yes(c.fits)),
        ("score", lambda c: f"{c.score:.3f}" if c.fits else text.NONE),
        ("refusal", lambda c: c.refusal),
        ("explanation", lambda c: c.explanation),
    ],
    name=lambda c: c.host_name,
)
