"""Networks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ostler.control.v1 import network_pb2
from peewee import fn

from ostler_control import labels
from ostler_control.api.convert.lookups import by_id, name_of
from ostler_control.api.convert.times import timestamp
from ostler_control.caller import Caller
from ostler_control.models import Account, Network, NetworkAccount, Nic, Zone, tuples


def networks(rows: Sequence[Network], caller: Caller) -> list[network_pb2.Network]:
    """What the caller may know of them: only admins learn of bridges, and of who else uses a network."""
    ids = [row.id for row in rows]
    zones = by_id(Zone, (row.zone_id for row in rows))
    accounts: defaultdict[str, list[str]] = defaultdict(list)
    counts: dict[str, int] = {}
    if caller.is_admin:
        allowed = NetworkAccount.select(NetworkAccount.network, Account.name).join(Account)
        for network_id, name in tuples(
            allowed.where(NetworkAccount.network.in_(ids)).order_by(Account.name), tuple[str, str]
        ):
            accounts[network_id].append(name)
        used = Nic.select(Nic.network, fn.COUNT(Nic.vm.distinct())).where(Nic.network.in_(ids)).group_by(Nic.network)
        counts = dict(tuples(used, tuple[str, int]))
    own = labels.of_objects(Network, ids)
    return [
        network_pb2.Network(
            id=row.id,
            name=row.name,
            zone_id=row.zone_id,
            zone_name=name_of(zones, row.zone_id),
            bridge=row.bridge if caller.is_admin else "",
            vlan=row.vlan if caller.is_admin else 0,
            mtu=row.mtu,
            filter=row.spoof_filter,
            all_accounts=row.all_accounts,
            accounts=accounts[row.id],
            vm_count=counts.get(row.id, 0),
            create_time=timestamp(row.create_time),
            labels=own.get(row.id, {}),
        )
        for row in rows
    ]
