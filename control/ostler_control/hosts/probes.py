"""Why a host has not proved a capability, for people."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import json_format
from ostler.types.v1 import host_pb2

from ostler_control.models import Host

_NAMED = 3


def failed_probe(host: Host) -> str:
    """Why a host has not proved volume encryption: "volume-encryption.qemu-img: no such option"."""
    for probe in json_format.Parse(host.capabilities or "{}", host_pb2.Capabilities()).probes:
        if probe.name.startswith("volume-encryption") and not probe.ok:
            return f"{probe.name}: {probe.reason or 'failed'}"
    return "volume-encryption: not probed yet"


def failed_probes(host_ids: Iterable[str]) -> str:
    """The same for several: "h3 (volume-encryption.qemu-img: no such option), h4 (...) and 2 more"."""
    rows = list(Host.select(Host.name, Host.capabilities).where(Host.id.in_(list(host_ids))).order_by(Host.name))
    named = ", ".join(f"{row.name} ({failed_probe(row)})" for row in rows[:_NAMED])
    return named + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")
