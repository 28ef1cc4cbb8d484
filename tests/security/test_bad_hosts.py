"""A host that reports what cannot be harms itself only: the report is dropped, and the host's state says why."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from ostler.agent.v1 import host_pb2 as agent_pb
from ostler.agent.v1 import pool_pb2
from ostler.types.v1 import host_pb2, vm_pb2
from ostler_control import database
from ostler_control.agents import reports
from ostler_control.fleet import store
from ostler_control.models import Event, Host, HostState, HypervisorType, Pool, PoolHost, UnmanagedVm
from ostler_control.pools import reach
from ostler_control.server import Control

from tests.fakes.agent import FakeAgent
from tests.fakes.fleet import Fleet
from tests.fakes.working_agent import wait_until

Load = vm_pb2.HostLoad
VmLoad = vm_pb2.VmLoad


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def control(fleet: Fleet) -> Iterator[Control]:
    with fleet.running() as control:
        yield control


@pytest.mark.parametrize(
    ("wrong", "load"),
    [
        ("cpu_used is nan", Load(cpu_used=math.nan)),
        ("cpu_used is inf", Load(cpu_used=math.inf)),
        ("cpu_used is -0.5", Load(cpu_used=-0.5)),
        ("cpu_used is 1e+300", Load(cpu_used=1e300)),
        ("memory_used_bytes is -1", Load(memory_used_bytes=-1)),
        ("memory_used_bytes is 3, of 2 in all", Load(memory_used_bytes=3, memory_total_bytes=2)),
        ("memory_pressure is nan", Load(memory_pressure=math.nan)),
        ("vms[0].cpu_used is nan", Load(vms=[VmLoad(vm_id="v", cpu_used=math.nan)])),
        ("vms has one VM twice", Load(vms=[VmLoad(vm_id="v"), VmLoad(vm_id="v")])),
        ("vms has 10001 elements", Load(vms=[VmLoad(vm_id=str(n)) for n in range(10_001)])),
    ],
)
def test_a_load_that_cannot_be_is_found(wrong: str, load: Load) -> None:
    assert reports.find_wrong_load(load) == wrong


def test_a_possible_load_is_accepted() -> None:
    vms = [VmLoad(vm_id=str(n), cpu_used=1.5, memory_rss_bytes=1 << 30) for n in range(200)]
    load = Load(cpu_used=300.5, cpus=8, memory_used_bytes=1, memory_total_bytes=2, io_pressure=99.9, vms=vms)
    assert reports.find_wrong_load(load) == ""


def test_a_broken_host_is_shown_and_what_it_reported_before_counts(fleet: Fleet, control: Control) -> None:
    host, credentials = fleet.host("h1")
    fake = FakeAgent(credentials)
    with fake.serving():
        with database.session():
            Host.update(address=f"127.0.0.1:{fake.port}").where(Host.id == host.id).execute()
        wait_until(lambda: row(host).state is HostState.UP)
        fake.say(agent_pb.HostUpdate(load=Load(cpu_used=2.5)))
        wait_until(lambda: "2.5" in row(host).load)

        for value in (math.nan, -1.0, math.inf):
            fake.say(agent_pb.HostUpdate(load=Load(cpu_used=value)))
        wait_until(lambda: "cpu_used is nan" in row(host).state_reason)
        assert "2.5" in row(host).load
        assert "NaN" not in row(host).load + row(host).smooth_load
        assert bad_reports(host) == 1, "told once"

        fake.say(agent_pb.HostUpdate(load=Load(cpu_used=3.5)))
        wait_until(lambda: row(host).state_reason == "" and "3.5" in row(host).load)

        impossible = host_pb2.Capabilities(hypervisor_type="kvm", cpus=-4, memory_bytes=1 << 33)
        fake.say(agent_pb.HostUpdate(capabilities=impossible))
        wait_until(lambda: "cpus is -4" in row(host).state_reason)
        assert (row(host).state, row(host).cpus) == (HostState.UP, 8)

        bad_vm = vm_pb2.VmInfo(vm_id="v1", name="x", cpus=-1)
        long_name = vm_pb2.VmInfo(vm_id="v2", name="\x9b31m\u202e" + "n" * 5000, cpus=1)
        for vm in (bad_vm, long_name):
            fake.say(agent_pb.HostUpdate(vm_event=agent_pb.VmEvent(kind=agent_pb.VmEvent.DEFINED, vm=vm)))
        wait_until(lambda: unmanaged(host) == ["v2"])
        with database.session():
            name = UnmanagedVm.get(UnmanagedVm.vm_uuid == "v2").name
        assert name.startswith("\\x9b31m\\u202e")
        assert len(name) < 1100


def row(host: Host) -> Host:
    with database.session():
        return Host.get_by_id(host.id)


def bad_reports(host: Host) -> int:
    with database.session():
        return int(Event.select().where(Event.type == "host.report.bad", Event.resource_id == host.id).count())


def unmanaged(host: Host) -> list[str]:
    with database.session():
        return [vm.vm_uuid for vm in UnmanagedVm.select().where(UnmanagedVm.host == host.id)]


def test_the_last_host_to_report_does_not_rename_a_type(fleet: Fleet) -> None:
    hosts = [fleet.host(name)[0] for name in ("r1", "r2")]

    def report(host: Host, name: str) -> None:
        capabilities = host_pb2.Capabilities(hypervisor_type="acme", hypervisor_display_name=name, cpus=1)
        store.set_facts(store.WatchedHost(host.id, host.name, host.address, HostState.UP), "1", capabilities)

    def name() -> str:
        with database.session():
            return HypervisorType.get(HypervisorType.type == "acme").display_name

    for host in hosts:
        report(host, "Acme")
    report(hosts[1], "KVM ")
    assert name() == "Acme"
    report(hosts[0], "Acme 2")
    assert name() == "Acme"
    report(hosts[1], "Acme 2")
    assert name() == "Acme 2", "all of them report it"


@pytest.mark.parametrize(
    ("capacity_bytes", "available_bytes"), [(-1, 0), (10, 11), (1 << 62, 1)], ids=["negative", "more-than-all", "huge"]
)
def test_a_pool_measured_as_it_cannot_be_is_not_reached(
    fleet: Fleet, capacity_bytes: int, available_bytes: int
) -> None:
    host, _ = fleet.host(f"p{capacity_bytes}-{available_bytes}".replace("--", "-m"))
    with database.transaction():
        pool = Pool.create(name=host.name, type="local", path="/p", scope="host", scope_id=host.id)
    answer = pool_pb2.Pool(capacity_bytes=capacity_bytes, available_bytes=available_bytes)
    reach.record(pool.id, host.id, answer)
    with database.session():
        found = PoolHost.get(PoolHost.pool == pool.id)
        assert (found.reachable, "cannot be" in found.reason) == (False, True)
        assert Pool.get_by_id(pool.id).capacity_bytes == 0
