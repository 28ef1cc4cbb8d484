"""Migrations of hosts and clusters."""

from __future__ import annotations

import datetime

import peewee
import pytest
from ostler_control import database
from ostler_control.models import (
    Cluster,
    DrsCondition,
    Host,
    HostFence,
    HostGuard,
    HostPower,
    HostSilence,
    JoinToken,
    Priority,
    Vm,
    VmPriority,
    VmRestart,
    db,
)

from tests.unit.control.migrations.old_rows import OLD_VM, up_to

pytestmark = pytest.mark.usefixtures("unmigrated_database")


def test_vms_and_hosts_get_high_availability() -> None:
    up_to("0011_warm_imports", OLD_VM)
    assert "0012_ha" in database.migrate()
    VmPriority.create(vm="v", priority=Priority.HIGH)
    VmRestart.create(vm="v", lost_host_id="h", priority=Priority.HIGH)
    HostFence.create(host="h", operation_id="x")
    assert [row.vm.name for row in VmRestart.select()] == ["web"]
    Host.delete().where(Host.id == "h").execute()
    Vm.delete().where(Vm.id == "v").execute()
    assert [model.select().count() for model in (VmPriority, VmRestart, HostFence)] == [0, 0, 0]


def test_tokens_from_before_hosts_could_be_named_name_none() -> None:
    up_to("0012_ha")
    db.execute_sql(
        "INSERT INTO join_token (id, create_time, digest, cluster_id, host_id, expire_time) "
        "VALUES ('t', '2026-01-01 00:00:00', 'd', 'c', '', '2026-01-01 01:00:00')"
    )
    assert "0013_pinned_tokens" in database.migrate()
    [kept] = JoinToken.select()
    assert (kept.digest, kept.cluster_id, kept.host_name, kept.address) == ("d", "c", "", "")
    assert (kept.expire_time, kept.use_time) == (datetime.datetime(2026, 1, 1, 1), None)


def test_drs_gets_conditions() -> None:
    up_to("0016_labels", OLD_VM[:2])
    assert "0017_drs_conditions" in database.migrate()
    time = datetime.datetime(2026, 1, 1)
    DrsCondition.create(cluster="c", kind="unbalanced", start_time=time, seen_time=time)
    assert [row.cluster.name for row in DrsCondition.select()] == ["cluster"]
    Cluster.delete().where(Cluster.id == "c").execute()
    assert DrsCondition.select().count() == 0


def test_hosts_may_be_switched_off() -> None:
    up_to("0018_event_chain", OLD_VM)
    assert "0019_host_power" in database.migrate()
    HostPower.create(host="h")
    assert [(row.host.name, row.state) for row in HostPower.select()] == [("h1", "switching_off")]
    Host.delete().where(Host.id == "h").execute()
    assert HostPower.select().count() == 0


def test_hosts_get_guardians() -> None:
    up_to("0030_vm_snapshots_schedules", OLD_VM[:3])
    assert "0032_host_guard" in database.migrate()
    HostGuard.create(host="h")
    assert [(row.host.name, row.state, row.term) for row in HostGuard.select()] == [("h1", "off", "")]
    db.execute_sql("DELETE FROM host")
    assert HostGuard.select().count() == 0


def test_the_silence_of_fenced_hosts_can_be_recorded_of_hosts_from_before() -> None:
    up_to("0003_setting_scopes", OLD_VM)
    up_to("0045_vm_absences")
    assert "0046_host_silence" in database.migrate()
    HostSilence.create(host="h")
    with pytest.raises(peewee.IntegrityError):
        HostSilence.create(host="h")
    Host.delete().where(Host.id == "h").execute()
    assert HostSilence.select().count() == 0
