"""How import sources, their VMs and checks are printed."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.control.v1 import import_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.output import Section, View

POWERS = ("on", "off", "suspended")


def _disks(vm: pb.SourceVm) -> Sequence[Sequence[str]]:
    rows = ((str(d.key), d.label, text.size(d.capacity_bytes), d.kind, d.datastore) for d in vm.disks)
    return [("key", "label", "size", "kind", "datastore"), *rows]


def _nics(vm: pb.SourceVm) -> Sequence[Sequence[str]]:
    return [("label", "model", "mac", "network"), *((n.label, n.model, n.mac, n.network) for n in vm.nics)]


def _trust(source: pb.ImportSource) -> str:
    if source.known_hosts:
        return "host key"
    return f"thumbprint {source.thumbprint[:16]}..." if source.thumbprint else "CA"


SOURCE = View[pb.ImportSource](
    "import source",
    columns=[
        ("name", lambda s: s.name),
        ("type", lambda s: s.type),
        ("address", lambda s: s.address),
        ("username", lambda s: s.username),
        ("trust", _trust),
    ],
    details=[
        ("thumbprint", lambda s: s.thumbprint),
        ("labels", lambda s: labels_joined(s.labels)),
        ("created", lambda s: text.when(s, "create_time")),
        ("id", lambda s: s.id),
    ],
)
SOURCE_VM = View[pb.SourceVm](
    "VM",
    columns=[
        ("name", lambda v: v.name),
        ("ref", lambda v: v.ref),
        ("power", lambda v: text.enum_of(v, "power")),
        ("guest", lambda v: v.guest_name or v.guest_id),
        ("firmware", lambda v: f"{v.firmware}, secure boot" if v.secure_boot else v.firmware),
        ("cpus", lambda v: str(v.cpus)),
        ("memory", lambda v: text.size(v.memory_bytes)),
        ("disks", lambda v: f"{len(v.disks)}: {text.size(sum(d.capacity_bytes for d in v.disks))}"),
        ("nics", lambda v: text.joined(n.network for n in v.nics)),
        ("snapshots", lambda v: str(v.snapshots) if v.snapshots else text.NONE),
        ("tools", lambda v: v.tools),
    ],
    details=[
        ("used", lambda v: text.size(v.used_bytes)),
        ("host", lambda v: v.host),
        ("cluster", lambda v: v.cluster),
    ],
    sections=[Section("Disks", _disks), Section("Network", _nics)],
)


def verdict(found: pb.CheckImportResponse) -> list[str]:
    """Whether the import would begin, and how."""
    if not found.go:
        return ["no-go: fix the errors first"]
    if not found.staging_pool_name:
        return [f"go: copied by host {found.conversion_host_name}, straight into the volumes"]
    by = "the control plane" if found.download_by == "control" else "the conversion host, with ovftool"
    return [
        f"go: conversion on host {found.conversion_host_name}, files in pool {found.staging_pool_name},",
        f"downloaded by {by}; it may take about {max(1, found.estimated_s // 60)} min",
    ]
