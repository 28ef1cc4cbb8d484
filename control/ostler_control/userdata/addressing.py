"""The static addresses of network interfaces, which a guest learns from its seed."""

from __future__ import annotations

import json
from collections.abc import Collection

from ostler_control.models import NicAddressing
from ostler_control.userdata.seed import Addressing


def record(nic_id: str, addressing: Addressing) -> None:
    """Keeps the addresses of a new interface; one without any asks DHCP. Within the caller's transaction."""
    if addressing.addresses:
        NicAddressing.create(
            nic=nic_id,
            addresses=json.dumps(addressing.addresses),
            gateways=json.dumps(addressing.gateways),
            nameservers=json.dumps(addressing.nameservers),
        )


def of_nics(nic_ids: Collection[str]) -> dict[str, Addressing]:
    """The addresses of these interfaces by their ids; one that asks DHCP is not there."""
    if not nic_ids:
        return {}
    rows = NicAddressing.select().where(NicAddressing.nic.in_(list(nic_ids)))
    return {
        row.nic_id: Addressing(
            *(tuple(json.loads(column)) for column in (row.addresses, row.gateways, row.nameservers))
        )
        for row in rows
    }
