"""Arguments that name an object: name or id, completed by asking the control plane."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from ostler_control.cli.app import App

COMPLETION_DEADLINE_S = 1.0


@dataclass(frozen=True)
class _Listing:
    """How objects of a kind are listed: stub of the client, method, the answer's field, and the name's in a row; the
    request is named after the method, in the module of ostler.control.v1."""

    stub: str
    method: str
    module: str
    field: str
    name: str = "name"


_LISTINGS = {
    "account": _Listing("accounts", "ListAccounts", "account_pb2", "accounts"),
    "affinity-group": _Listing("affinity", "ListAffinityGroups", "affinity_pb2", "affinity_groups"),
    "backup": _Listing("backups", "ListBackups", "backup_pb2", "backups"),
    "backup-store": _Listing("backups", "ListBackupStores", "backup_pb2", "stores"),
    "cluster": _Listing("clusters", "ListClusters", "zone_pb2", "clusters"),
    "disk-offering": _Listing("offerings", "ListDiskOfferings", "offering_pb2", "disk_offerings"),
    "host": _Listing("hosts", "ListHosts", "host_pb2", "hosts"),
    "iso": _Listing("isos", "ListIsos", "iso_pb2", "isos"),
    "key": _Listing("keys", "ListKeys", "key_pb2", "keys"),
    "hypervisor-type": _Listing(
        "hypervisors", "ListHypervisorTypes", "hypervisor_pb2", "hypervisor_types", "display_name"
    ),
    "import-plan": _Listing("import_plans", "ListImportPlans", "import_plan_pb2", "plans"),
    "import-source": _Listing("imports", "ListImportSources", "import_pb2", "sources"),
    "network": _Listing("networks", "ListNetworks", "network_pb2", "networks"),
    "plan": _Listing("drs", "ListPlans", "drs_pb2", "plans"),
    "pool": _Listing("pools", "ListPools", "pool_pb2", "pools"),
    "service-offering": _Listing("offerings", "ListServiceOfferings", "offering_pb2", "service_offerings"),
    "setting": _Listing("settings", "ListSettings", "setting_pb2", "settings"),
    "snapshot": _Listing("snapshots", "ListSnapshots", "snapshot_pb2", "snapshots"),
    "template": _Listing("templates", "ListTemplates", "template_pb2", "templates"),
    "user-data": _Listing("user_data", "ListUserData", "userdata_pb2", "user_data"),
    "user": _Listing("users", "ListUsers", "account_pb2", "users"),
    "vm": _Listing("vms", "ListVms", "vm_pb2", "vms"),
    "vm-snapshot": _Listing("vm_snapshots", "ListVmSnapshots", "vm_snapshot_pb2", "vm_snapshots"),
    "volume": _Listing("volumes", "ListVolumes", "volume_pb2", "volumes"),
    "zone": _Listing("zones", "ListZones", "zone_pb2", "zones"),
}


class Name(click.ParamType[str]):
    """The name or id of an object of a kind."""

    def __init__(self, noun: str) -> None:
        self.name = noun
        self._listing = _LISTINGS[noun]

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            names = self._names(App(ctx.find_root().params.get("profile")))
        except Exception:  # completion never reports errors
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    def _names(self, app: App) -> list[str]:
        listing = self._listing
        module = import_module(f"ostler.control.v1.{listing.module}")
        request = getattr(module, f"{listing.method}Request")(page_size=500)
        call = getattr(getattr(app.client, listing.stub), listing.method)
        return [
            getattr(item, listing.name) for item in getattr(call(request, timeout=COMPLETION_DEADLINE_S), listing.field)
        ]


ACCOUNT = Name("account")
AFFINITY_GROUP = Name("affinity-group")
BACKUP = Name("backup")
BACKUP_STORE = Name("backup-store")
CLUSTER = Name("cluster")
DISK_OFFERING = Name("disk-offering")
HOST = Name("host")
ISO = Name("iso")
KEY = Name("key")
HYPERVISOR_TYPE = Name("hypervisor-type")
IMPORT_PLAN = Name("import-plan")
IMPORT_SOURCE = Name("import-source")
NETWORK = Name("network")
PLAN = Name("plan")
POOL = Name("pool")
SERVICE_OFFERING = Name("service-offering")
SETTING = Name("setting")
SNAPSHOT = Name("snapshot")
TEMPLATE = Name("template")
USER = Name("user")
USER_DATA = Name("user-data")
VM = Name("vm")
VM_SNAPSHOT = Name("vm-snapshot")
VOLUME = Name("volume")
ZONE = Name("zone")
