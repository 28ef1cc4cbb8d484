"""Imports from the simulated vCenter: what to ask for, and what must not be left."""

from __future__ import annotations

from typing import Any

import pytest
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret
from ostler_control.imports import sources
from ostler_control.imports.facts import find_vm
from ostler_control.imports.record import record_import
from ostler_control.imports.wanted import Wanted
from ostler_control.models import (
    ImportSource,
    Nic,
    Passphrase,
    ServiceOffering,
    Vm,
    VmImport,
    VmOrigin,
    Volume,
    new_id,
)
from ostler_control.vmware.clone import list_clones
from ostler_control.vmware.trust import Trust

from tests.fakes.vcenter import PASSWORD, USER, FakeVcenter
from tests.sites import Site
from tests.unit.vmware.conftest import NETWORK

OK = ("succeeded", "")


MIB = 1 << 20


def new_source(server: FakeVcenter, password: str = PASSWORD, **changes: Any) -> sources.NewSource:
    address = f"{server.host}:{server.port}"
    fields = {"id": new_id(), "name": "vc1", "address": address, "username": USER, **changes}
    return sources.NewSource(**fields, password=Secret(password.encode()), trust=Trust(sha256=server.sha256))


def wanted(site: Site, source: ImportSource, vm: str, **changes: Any) -> Wanted:
    fields: dict[str, Any] = {
        "account": site.account,
        "offering": ServiceOffering.get(ServiceOffering.name == "two"),
        "disk_offering": site.disks["plain"],
        "networks": {NETWORK: site.network},
    }
    return Wanted(source, vm, **(fields | changes))


def record(site: Site, what: Wanted) -> Any:
    """What the handler does."""
    assert what.source is not None
    with sources.connect(what.source, site.keys) as connection:
        vm, is_vcenter = find_vm(connection, what.source_vm), connection.is_vcenter
    return site.record(lambda: record_import(what, vm, is_vcenter, "root", site.keys))


def refusal(site: Site, what: Wanted) -> OstlerError:
    with pytest.raises(OstlerError) as refused:
        record(site, what)
    return refused.value


def clones(site: Site, source: ImportSource) -> dict[str, str]:
    with sources.connect(source, site.keys) as connection:
        return list_clones(connection)


def check_nothing_left(site: Site, source: ImportSource, server: FakeVcenter) -> None:
    """Neither on vCenter, nor on staging, hosts and pools, nor in the database."""
    assert clones(site, source) == {}
    assert all(lease["state"] in ("done", "error") for lease in server.leases())
    assert site.fleet.staging == {}
    assert VmImport.select().count() == 0
    assert Vm.select().count() == Volume.select().count() == VmOrigin.select().count() == Nic.select().count() == 0
    assert site.fleet.files() == {}
    assert [key.id for key in Passphrase.select()] == [source.passphrase_id]
    assert all(not fake.vms for fake in site.fleet.hosts.values())
