"""Why a host has not proved a capability, for people."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import json_format
from ostler.types.v1 import host_pb2
from ostler_common.hypervisors import Function

from ostler_control.hypervisors import rules
from ostler_control.models import Host

_NAMED = 3


def failed_probe(host: Host) -> str:
    """Why a host has not proved volume encryption: "volume-encryption.qemu-img: no such option"."""
    if not rules.supports(Function.VOLUME_ENCRYPTION, host):
        return f"hypervisors of type {rules.name_of(host.hypervisor_type)} do not support it"
    for probe in json_format.Parse(host.capabilities or "{}", host_pb2.Capabilities()).probes:
        if probe.name.startswith("volume-encryption") and not probe.ok:
            return f"{probe.name}: {probe.reason or 'failed'}"
    return "volume-encryption: not probed yet"


def has_proved(host: Host, name: str) -> bool:
    """Whether the probe of this name has succeeded there."""
    capabilities = json_format.Parse(host.capabilities or "{}", host_pb2.Capabilities(), ignore_unknown_fields=True)
    return any(probe.name == name and probe.ok for probe in capabilities.probes)


def failed_probes(host_ids: Iterable[str]) -> str:
    """The same for several: "h3 (volume-encryption.qemu-img: no such option), h4 (...) and 2 more"."""
    columns = (Host.name, Host.capabilities, Host.hypervisor_type, Host.functions)
    rows = list(Host.select(*columns).where(Host.id.in_(list(host_ids))).order_by(Host.name))
    named = ", ".join(f"{row.name} ({failed_probe(row)})" for row in rows[:_NAMED])
    return named + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")
