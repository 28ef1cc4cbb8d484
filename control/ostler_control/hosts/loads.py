"""The loads that this process has heard of hosts, newer than their rows, which are written only when it matters.

The replica that watches the fleet has them; on others the row counts, which is at most about a minute old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf import json_format
from ostler.types.v1 import vm_pb2

from ostler_control.models import Host

# By host. Replaced entry by entry, never changed.
_heard: dict[str, vm_pb2.HostLoad] = {}


def hear(loads: Mapping[str, vm_pb2.HostLoad]) -> None:
    """Keeps what hosts have just reported, by id."""
    _heard.update(loads)


def forget(host_ids: Iterable[str]) -> None:
    """For hosts that this process watches no longer: their rows count."""
    for host_id in host_ids:
        _heard.pop(host_id, None)


def latest(host: Host) -> vm_pb2.HostLoad | None:
    """The host's load as last heard; None when it has never reported any."""
    heard = _heard.get(host.id)
    if heard is not None:
        return heard
    return json_format.Parse(host.load, vm_pb2.HostLoad(), ignore_unknown_fields=True) if host.load else None
