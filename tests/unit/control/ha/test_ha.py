"""High availability over hosts in memory and a fence agent that is a real program."""

from __future__ import annotations

from functools import partial

import grpc
import pytest
from ostler.agent.v1 import host_pb2 as agent_pb
from ostler_common.errors import InternalError, OstlerError
from ostler_common.secret import Secret
from ostler_control import settings, vms
from ostler_control.database import transaction
from ostler_control.fleet import store
from ostler_control.ha import devices, priorities, run_agent
from ostler_control.ha.fence import fence
from ostler_control.ha.fence_agents import Action, Device, Power, arguments, parameters, power
from ostler_control.ha.status import status
from ostler_control.hosts.rows import address
from ostler_control.models import (
    Cluster,
    Event,
    FenceDevice,
    FenceState,
    Host,
    HostFence,
    HostState,
    Operation,
    Passphrase,
    Priority,
    Vm,
    VmRestart,
    VmSighting,
    VmState,
    now,
)
from ostler_control.operations import Engine
from ostler_control.vms.lost_host import remove_lost

from tests.fakes.fence import PASSWORD, FakeDevice
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import GIB, Site, outcome
from tests.unit.control.ha.place import OK, ON_BOTH, Clock, die, finish_all, host_of, new_device, refused, vm


@ON_BOTH
def test_vms_of_a_dead_host_start_elsewhere_once_it_is_proved_off(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    clock.tick()
    die(site, "h1")
    clock.tick()
    clock.tick(59)
    assert bmc.calls() == [], "silence is no proof"
    assert [host_of(name) for name in ("high", "low", "other")] == ["h1"] * 3
    clock.tick(2)
    finish_all(engine)
    assert bmc.calls() == ["off", "status"]
    assert bmc.power == "off"
    assert site.host("h1").state is HostState.FENCED
    clock.tick()
    finish_all(engine)
    clock.tick()
    assert {host_of("high"), host_of("low")} <= {"h2", "h3"}
    assert [vm(name).state for name in ("high", "low", "other")] == [VmState.RUNNING, VmState.RUNNING, VmState.STOPPED]
    assert not VmRestart.select().exists()
    assert outcome(engine, site.record(lambda: vms.start(vm("other"), "alice"))) == OK
    site.check_whole()
    starts = [
        row.resource_name
        for row in Operation.select().where(Operation.verb == "vm.start").order_by(Operation.create_time)
    ]
    assert starts[0] == "high", "the highest priority first"


def test_a_host_that_answers_right_before_it_is_switched_off_is_left_alone(
    site: Site, engine: Engine, bmc: FakeDevice
) -> None:
    Host.update(state=HostState.DISCONNECTED).where(Host.name == "h1").execute()
    operation = site.record(lambda: fence(site.host("h1"), "system", device=True, automatic=True))
    assert outcome(engine, operation) == ("failed", "HOST_ANSWERS")
    assert (bmc.calls(), bmc.power) == ([], "on")
    assert site.host("h1").state is HostState.DISCONNECTED
    assert HostFence.get().state is FenceState.FAILED
    assert host_of("high") == "h1"
    site.check_whole()


def test_a_host_that_answers_is_left_alone_although_a_connection_to_it_has_just_failed(
    site: Site, engine: Engine, bmc: FakeDevice
) -> None:
    """gRPC tries a channel that failed again only after a while, and says meanwhile that nobody answers."""
    site.silence("h1")
    agent = engine.agents.at(address(site.host("h1")))
    with pytest.raises(grpc.RpcError):
        agent.host.GetHost(agent_pb.GetHostRequest(), timeout=5)
    site.hosts["h1"].start()
    operation = site.record(lambda: fence(site.host("h1"), "system", device=True, automatic=True))
    assert outcome(engine, operation) == ("failed", "HOST_ANSWERS")
    assert (bmc.calls(), bmc.power) == ([], "on")


def test_nothing_is_switched_off_when_other_hosts_fell_silent_meanwhile(
    site: Site, engine: Engine, bmc: FakeDevice
) -> None:
    for name in ("h1", "h2"):
        site.silence(name)
    operation = site.record(lambda: fence(site.host("h1"), "system", device=True, automatic=True))
    assert outcome(engine, operation) == ("failed", "TOO_MANY_SILENT")
    assert bmc.calls() == []
    by_admin = site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))
    assert outcome(engine, by_admin) == OK


def test_a_fence_device_that_is_dead_too_leaves_the_vms_where_they_are(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    bmc.fault("dead")
    clock.tick()
    site.silence("h1")
    clock.tick()
    clock.tick(61)
    finish_all(engine)
    clock.tick()
    assert [host_of(name) for name in ("high", "low")] == ["h1", "h1"]
    assert vm("high").state is VmState.RUNNING
    shown = {host.row.name: host for host in status(Cluster.get()).hosts}["h1"]
    assert "no route to host" in shown.explanation
    clock.tick(30)
    finish_all(engine)
    assert bmc.calls() == ["off"], "the next attempt comes after a pause"
    declared = site.record(lambda: fence(site.host("h1"), "root", device=False, automatic=False))
    assert outcome(engine, declared) == OK
    assert HostFence.get().proof == "admin"


def test_a_device_that_only_says_that_it_switched_is_no_proof(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    bmc.fault("stuck")
    site.silence("h1")
    operation = site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))
    assert outcome(engine, operation) == ("failed", "NOT_OFF")
    assert host_of("high") == "h1"
    assert not VmRestart.select().exists()


def test_an_admin_declares_a_host_dead_that_has_no_device(site: Site, engine: Engine, clock: Clock) -> None:
    assert refused(lambda: fence(site.host("h1"), "root", device=False, automatic=False)) == "HOST_UP"
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=False, automatic=False))) == OK
    assert refused(lambda: fence(site.host("h1"), "root", device=False, automatic=False)) == "HOST_OFF"
    [declared] = Event.select().where(Event.type == "host.fence", Event.outcome == "succeeded")
    assert declared.actor == "root"
    for _ in range(2):
        clock.tick()
        finish_all(engine)
    assert {host_of("high"), host_of("low")} <= {"h2", "h3"}
    assert outcome(engine, site.record(lambda: vms.delete(vm("other"), "root"))) == OK


def test_two_do_not_fence_one_host(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    bmc.fault("slow")
    site.silence("h1")
    first = site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))
    assert refused(lambda: fence(site.host("h1"), "system", device=True, automatic=True)) == "RESOURCE_BUSY"
    assert refused(lambda: remove_lost(site.host("h1"), "root")) == "RESOURCE_BUSY"
    bmc.fault("slow", present=False)
    engine.cancel(first.id)


def test_a_fenced_host_that_returns_is_up_again_once_nothing_is_in_doubt(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    definitions = dict(site.hosts["h1"].vms)
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    for machine in definitions.values():
        machine.running = False
    site.hosts["h1"].vms.update(definitions)
    site.hosts["h1"].start()
    h1 = site.host("h1")
    watched = store.WatchedHost(h1.id, h1.name, h1.address, h1.state)
    store.set_state(watched, HostState.UP, "")
    assert site.host("h1").state is HostState.FENCED, "the watcher does not give it back"
    clock.tick()
    wait_until(lambda: site.host("h1").state is HostState.UP)
    assert not HostFence.select().exists()
    assert set(site.hosts["h1"].vms) <= {row.id for row in Vm.select() if row.host_id == site.host("h1").id}
    finish_all(engine)
    clock.tick()
    assert vm("high").state is VmState.RUNNING
    site.check_whole()


def test_a_host_that_still_runs_a_vm_of_another_host_is_not_given_back(
    site: Site, engine: Engine, clock: Clock
) -> None:
    """An admin was wrong: the host was not off."""
    site.silence("h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=False, automatic=False))) == OK
    h1 = site.host("h1")
    row = vm("other")
    with transaction():
        VmSighting.create(vm=row, host=h1)
    store.set_state(store.WatchedHost(h1.id, h1.name, h1.address, h1.state), HostState.UP, "")
    clock.tick()
    assert site.host("h1").state is HostState.FENCED
    assert refused(lambda: vms.start(vm("other"), "alice")) == "RUNS_ELSEWHERE"


def test_a_silence_that_breaks_off_begins_anew(site: Site, engine: Engine, bmc: FakeDevice, clock: Clock) -> None:
    for _ in range(5):
        site.silence("h1")
        Host.update(state_time=now()).where(Host.name == "h1").execute()
        clock.tick()
        clock.tick(59)
        site.revive("h1")
        clock.tick(1)
    assert bmc.calls() == []
    assert host_of("high") == "h1"


def test_a_new_monitor_does_not_count_what_it_has_not_seen(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    site.silence("h1")
    first = Clock(engine.agents)
    first.tick()
    first.tick(50)
    second = Clock(engine.agents)
    second.tick()
    second.tick(50)
    assert bmc.calls() == []


def test_a_vm_without_a_place_waits_and_starts_when_there_is_one(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    Host.update(memory_bytes=GIB // 8).where(Host.name != "h1").execute()
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    clock.tick()
    waiting = {row.vm.name: row.reason for row in VmRestart.select()}
    assert set(waiting) == {"high", "low"}
    assert "lack memory" in waiting["high"]
    assert [row.vm.name for row in status(Cluster.get()).restarts] == ["high", "low"]
    Host.update(memory_bytes=64 * GIB).where(Host.name == "h2").execute()
    VmRestart.update(next_time=now()).execute()
    clock.tick()
    finish_all(engine)
    assert {host_of("high"), host_of("low")} == {"h2"}


def test_a_start_that_fails_is_repeated_and_never_twice_at_once(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    for name in ("h2", "h3"):
        site.hosts[name].faults["StartVm"] = Fault(InternalError("no QEMU", "COMMAND_FAILED"), times=9)
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    for _ in range(2):
        clock.tick()
        finish_all(engine)
    assert [row.attempts for row in VmRestart.select()] == [1, 1]
    for name in ("h2", "h3"):
        site.hosts[name].faults.clear()
    VmRestart.update(next_time=now()).execute()
    clock.tick()
    finish_all(engine)
    clock.tick()
    assert not VmRestart.select().exists()
    site.check_whole()


def test_a_vm_whose_protection_ends_does_not_wait_any_more(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    priorities.set_vm(vm("low"), Priority.OFF, "root")
    assert [row.vm.name for row in VmRestart.select()] == ["high"]


def test_a_fenced_host_is_switched_on_again_if_that_is_wanted(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    devices.delete(site.host("h1"), "root")
    devices.create(site.host("h1"), new_device(power_on=True), Power.ON, "root", site.keys)
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    assert bmc.calls() == ["off", "status", "on"]
    assert bmc.power == "on"


@ON_BOTH
def test_placement_leaves_the_reserve_free_and_a_restart_may_use_it(
    site: Site, engine: Engine, bmc: FakeDevice, clock: Clock
) -> None:
    """Three hosts of 4 GiB, one of which is kept free: two hosts' worth may be placed, and three VMs are."""
    Cluster.update(memory_overcommit=1.0).execute()
    Host.update(memory_bytes=4 * GIB).execute()
    settings.change("host.reserved.memory", "0", "root")
    settings.change("ha.reserve.hosts", "1", "root")
    for number in range(3, 8):
        operation = site.record(partial(site.new_vm, f"filler-{number}", pool=site.pools["shared"]))
        assert outcome(engine, operation) == OK
    with pytest.raises(OstlerError, match="keep their capacity for VMs of failed hosts") as caught, transaction():
        site.new_vm("one-more", pool=site.pools["shared"])
    assert caught.value.reason == "NO_FEASIBLE_HOST"
    assert status(Cluster.get()).shortfall is None
    on_h1 = [row.name for row in Vm.select().where(Vm.host == site.host("h1").id) if row.name != "other"]
    die(site, "h1")
    assert outcome(engine, site.record(lambda: fence(site.host("h1"), "root", device=True, automatic=False))) == OK
    clock.tick()
    finish_all(engine)
    assert {host_of(name) for name in on_h1} <= {"h2", "h3"}


def test_the_password_is_sealed_and_no_argument(site: Site, engine: Engine, bmc: FakeDevice) -> None:
    [row] = FenceDevice.select()
    assert PASSWORD not in bytes(Passphrase.get_by_id(row.passphrase_id).sealed)
    assert devices.test(row, site.keys).test_power == "on"
    assert PASSWORD.decode() not in bmc.arguments()
    (bmc.directory / "password").write_text("another")
    failed = devices.test(row, site.keys)
    assert "login with *** failed" in failed.test_error
    devices.delete(site.host("h1"), "root")
    assert not Passphrase.select().where(Passphrase.id == row.passphrase_id).exists()


def test_a_password_that_ends_with_a_space_is_not_repeated() -> None:
    secret = Secret(b"correct horse ")
    error = run_agent._failed(new_device().device, secret, Action.STATUS, "", "refused: correct horse \n")
    assert "did not answer status: refused: ***" in error.message


@pytest.mark.parametrize(
    ("device", "password", "reason"),
    [
        (Device("sh", "bmc", "u", {}), b"p", "UNKNOWN_FENCE_AGENT"),
        (Device("../redfish", "bmc", "u", {}), b"p", "UNKNOWN_FENCE_AGENT"),
        (Device("redfish", "bmc\naction=on", "u", {}), b"p", "INVALID_FIELD"),
        (Device("redfish", "bmc", "u\naction=on", {}), b"p", "INVALID_USERNAME"),
        (Device("redfish", "bmc", "u", {}), b"p\naction=on", "INVALID_PASSWORD"),
        (Device("redfish", "bmc", "u", {}), b"", "INVALID_PASSWORD"),
        (Device("redfish", "bmc", "u", {"plug": "1\naction=on"}), b"p", "INVALID_OPTION"),
        (Device("redfish", "bmc", "u", {"debug_file": "/etc/passwd"}), b"p", "UNKNOWN_OPTION"),
        (Device("ipmilan", "bmc", "u", {}), b"p", "UNKNOWN_FENCE_AGENT"),
        (Device("ipmi", "bmc", "u", {"cipher": "0"}), b"p", "INVALID_OPTION"),
        (Device("ipmi", "bmc", "u", {"plug": "1"}), b"p", "UNKNOWN_OPTION"),
        (Device("ipmi", "bmc", "u" * 17, {}), b"p", "INVALID_USERNAME"),
        (Device("ipmi", "bmc", "u", {}), b"p" * 21, "INVALID_PASSWORD"),
    ],
)
def test_no_value_becomes_another_parameter(device: Device, password: bytes, reason: str) -> None:
    with pytest.raises(OstlerError) as caught:
        parameters(device, Secret(password), Action.STATUS)
    assert caught.value.reason == reason


def test_ipmitool_reads_the_password_and_no_argument_has_it() -> None:
    device, password = Device("ipmi", "[fd00::5]:6230", "ostler", {}), Secret(b"only on stdin")
    said = arguments(device, Action.OFF)
    assert said[-5:] == ["-f", "/proc/self/fd/0", "chassis", "power", "off"]
    assert [said[said.index(flag) + 1] for flag in ("-C", "-L", "-H", "-p", "-U")] == [
        *("17", "OPERATOR"),
        *("fd00::5", "6230", "ostler"),
    ]
    assert parameters(device, password, Action.OFF).reveal() == b"only on stdin\n"
    assert arguments(Device("redfish", "bmc", "ostler", {"plug": "1"}), Action.OFF) == []


@pytest.mark.parametrize(
    ("agent", "code", "said", "expected"),
    [
        ("redfish", 0, "Status: ON\n", Power.ON),
        ("redfish", 2, "Status: OFF\n", Power.OFF),
        ("redfish", 0, "Status: OFF\n", Power.UNKNOWN),
        ("redfish", 1, "Status: OFF\n", Power.UNKNOWN),
        ("redfish", 2, "", Power.UNKNOWN),
        ("redfish", 2, "Status: ON\nStatus: OFF\n", Power.UNKNOWN),
        ("redfish", 0, "Chassis Power is on\n", Power.UNKNOWN),
        ("ipmi", 0, "Chassis Power is on\n", Power.ON),
        ("ipmi", 0, "Chassis Power is off\n", Power.OFF),
        ("ipmi", 1, "Chassis Power is off\n", Power.UNKNOWN),
        ("ipmi", 0, "Chassis Power Control: Down/Off\n", Power.UNKNOWN),
        ("ipmi", 0, "Chassis Power is on\nChassis Power is off\n", Power.UNKNOWN),
    ],
)
def test_a_status_counts_when_exit_code_and_text_agree(agent: str, code: int, said: str, expected: Power) -> None:
    assert power(agent, code, said) is expected
