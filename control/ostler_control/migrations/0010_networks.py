"""Adds networks: one for each bridge of a zone with network interfaces, allowed to the accounts that use it; and what
hosts have proved."""

from __future__ import annotations

import datetime
import uuid
from collections import defaultdict
from typing import Any

from peewee import BooleanField, DateTimeField, ForeignKeyField, IntegerField, Model, TextField


class Base(Model):
    id: Any = TextField(primary_key=True, default=lambda: str(uuid.uuid4()))
    create_time: Any = DateTimeField(
        default=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None), index=True
    )

    class Meta:
        legacy_table_names = False


# Of these only what is read here, or referred to.
class Account(Base):
    pass


class Zone(Base):
    name: Any = TextField()


class Cluster(Base):
    zone: Any = ForeignKeyField(Zone)


class Host(Base):
    cluster: Any = ForeignKeyField(Cluster)


class HostFunction(Base):
    host: Any = ForeignKeyField(Host, on_delete="CASCADE")
    function: Any = TextField()

    class Meta:
        indexes = ((("host", "function"), True),)


class Vm(Base):
    account: Any = ForeignKeyField(Account)
    host: Any = ForeignKeyField(Host, null=True)
    last_host: Any = ForeignKeyField(Host, null=True)


class Network(Base):
    name: Any = TextField(unique=True)
    zone: Any = ForeignKeyField(Zone, on_delete="RESTRICT")
    bridge: Any = TextField()
    vlan: Any = IntegerField(default=0)
    mtu: Any = IntegerField(default=0)
    spoof_filter: Any = BooleanField(default=True)
    all_accounts: Any = BooleanField(default=False)


class NetworkAccount(Base):
    network: Any = ForeignKeyField(Network, on_delete="CASCADE")
    account: Any = ForeignKeyField(Account, on_delete="CASCADE")

    class Meta:
        indexes = ((("network", "account"), True),)


class OldNic(Base):
    vm: Any = ForeignKeyField(Vm)
    position: Any = IntegerField()
    mac: Any = TextField()
    bridge: Any = TextField()
    model: Any = TextField()

    class Meta:
        table_name = "nic"


class Nic(Base):
    vm: Any = ForeignKeyField(Vm, on_delete="CASCADE")
    position: Any = IntegerField()
    mac: Any = TextField(unique=True)
    network: Any = ForeignKeyField(Network, on_delete="RESTRICT")
    model: Any = TextField(default="virtio")

    class Meta:
        indexes = ((("vm", "position"), True),)


class NicAddressing(Base):
    nic: Any = ForeignKeyField(Nic, unique=True, on_delete="CASCADE")
    addresses: Any = TextField()
    gateways: Any = TextField(default="[]")
    nameservers: Any = TextField(default="[]")


_TABLES = (Account, Zone, Cluster, Host, HostFunction, Vm, Network, NetworkAccount, OldNic, Nic, NicAddressing)


def up(migrator: object, db: Any) -> None:
    """SQLite changes no column in place, so the table of interfaces is created anew and filled again.

    Their networks filter nothing, as until now: guests may rely on it.
    """
    with db.bind_ctx(_TABLES):
        nics: list[Any] = list(OldNic.select().dicts())
        addressing = list(NicAddressing.select().dicts())
        used = _used(nics)
        db.drop_tables([NicAddressing])  # it refers to the next one
        db.drop_tables([OldNic])
        db.create_tables([HostFunction, Network, NetworkAccount, Nic, NicAddressing], safe=False)
        networks = _create_networks(used)
        for nic in nics:
            place = (_zone_of(nic["vm"]), nic.pop("bridge"))
            Nic.insert({**nic, "network": networks[place]}).execute()
        for row in addressing:
            NicAddressing.insert(row).execute()


def _used(nics: list[dict[str, Any]]) -> dict[tuple[str, str], set[str]]:
    """Accounts by zone and bridge."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for nic in nics:
        found[_zone_of(nic["vm"]), nic["bridge"]].add(Vm.get_by_id(nic["vm"]).account.id)
    return found


def _zone_of(vm_id: str) -> str:
    """The zone of the VM's host; of one that never had a host, the first zone."""
    vm = Vm.get_by_id(vm_id)
    host = vm.host or vm.last_host
    zone: str = host.cluster.zone_id if host else Zone.select().order_by(Zone.create_time, Zone.id).get().id
    return zone


def _create_networks(used: dict[tuple[str, str], set[str]]) -> dict[tuple[str, str], str]:
    """Ids by zone and bridge. Where several zones have the bridge, the zone's name makes the network's unique."""
    bridges = [bridge for _, bridge in used]
    created = {}
    for (zone_id, bridge), accounts in sorted(used.items()):
        alone = bridges.count(bridge) == 1
        name = bridge if alone else f"{bridge}-{Zone.get_by_id(zone_id).name}"[:63]
        if Network.select().where(Network.name == name).exists():
            name = f"{bridge}-{zone_id[:8]}"
        network = Network.create(name=name, zone=zone_id, bridge=bridge, spoof_filter=False)
        created[zone_id, bridge] = network.id
        for account_id in sorted(accounts):
            NetworkAccount.create(network=network, account=account_id)
    return created
