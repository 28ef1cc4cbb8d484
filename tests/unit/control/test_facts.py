"""What hosts report of themselves: many of them at once, after a restart of the control plane."""

from __future__ import annotations

import pytest
from ostler.types.v1 import host_pb2, volume_pb2
from ostler_common.hypervisors import Function
from ostler_control.fleet import store
from ostler_control.fleet.store import WatchedHost
from ostler_control.hypervisors import proved
from ostler_control.models import Host, HostState, HypervisorType

from tests.fleets import Fleet, make_fleet
from tests.unit.control.test_list_cost import queries


def report(functions: list[str] | None = None, cpus: int = 8) -> host_pb2.Capabilities:
    return host_pb2.Capabilities(
        hypervisor_type="kvm",
        hypervisor_display_name="KVM",
        template_formats=[volume_pb2.DISK_FORMAT_QCOW2],
        functions=sorted(Function) if functions is None else functions,
        cpus=cpus,
        memory_bytes=16 << 30,
    )


@pytest.fixture
def fleet(fresh_database: str) -> Fleet:
    return make_fleet(3, functions="", template_formats="", capabilities="")


def told(fleet: Fleet, number: int, facts: host_pb2.Capabilities) -> str:
    row = fleet.hosts[number]
    return store.set_facts(WatchedHost(str(row.id), str(row.name), "", HostState.UP), "0.1.9", facts)


def test_facts_that_are_known_are_not_written_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    told(fleet, 0, report())
    told(fleet, 1, report())
    with queries(monkeypatch) as seen:
        told(fleet, 0, report())
    assert [text for text in seen if text.startswith(("UPDATE", "INSERT", "DELETE"))] == []
    told(fleet, 0, report(cpus=9))
    assert Host.get_by_id(fleet.hosts[0].id).cpus == 9


def test_a_report_that_adds_nothing_to_its_type_reads_no_other_hosts(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(fleet, 0, report())
    told(fleet, 1, report())
    with queries(monkeypatch) as seen:
        told(fleet, 2, report())
    assert [text for text in seen if text.startswith("SELECT DISTINCT")] == []
    assert Host.get_by_id(fleet.hosts[2].id).functions != ""


def test_a_type_learns_at_once_what_is_new_and_what_is_gone(fleet: Fleet) -> None:
    for number in range(3):
        told(fleet, number, report(["iso"]))
    told(fleet, 0, report(["iso", "live-migration"]))
    assert HypervisorType.get(HypervisorType.type == "kvm").functions == "iso,live-migration"
    told(fleet, 0, report([]))
    assert HypervisorType.get(HypervisorType.type == "kvm").functions == "iso"


@pytest.mark.parametrize(
    ("uefi", "secure_boot", "is_proved"),
    [(True, True, True), (True, False, False), (True, None, True), (False, None, False)],
)
def test_a_host_has_secure_boot_if_it_says_so_and_if_its_agent_is_too_old_to_say_it_has_uefi(
    fleet: Fleet, uefi: bool, secure_boot: bool | None, is_proved: bool
) -> None:
    facts = report()
    facts.uefi = uefi
    if secure_boot is not None:
        facts.secure_boot = secure_boot
    told(fleet, 0, facts)
    assert proved.has(fleet.hosts[0].id, Function.SECURE_BOOT) is is_proved
