"""CPUs of guests in a cluster of unlike hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ostler.types.v1 import host_pb2, vm_pb2
from ostler_common.errors import OstlerError
from ostler_control import vms
from ostler_control.database import session, transaction
from ostler_control.drs_plans import snapshot
from ostler_control.fleet import store
from ostler_control.hosts import cpus
from ostler_control.models import Cluster, Host, HostCpu, Operation, Vm, VmCpu
from ostler_control.operations import Engine
from ostler_control.states import HostState

from tests import databases
from tests.sites import Site, outcome, site_at_work

OK = ("succeeded", "")
OLD = vm_pb2.CpuModel(model="Haswell-noTSX", vendor="Intel", features=["ss"])
NEW = vm_pb2.CpuModel(model="Skylake-Server", vendor="Intel", lacks=["hle", "rtm"])


class Place:
    """A site whose hosts have told which CPU they give: h1 and h2 the old one."""

    def __init__(self, site: Site, engine: Engine) -> None:
        self.site, self.engine = site, engine
        self.tell(h1=OLD, h2=OLD)

    def tell(self, **given: vm_pb2.CpuModel) -> None:
        for name, cpu in given.items():
            with transaction():
                cpus.record(self.site.host(name).id, cpu)

    def do(self, record: Callable[[], Operation]) -> None:
        assert outcome(self.engine, self.site.record(record)) == OK

    def create(self, host: str = "h1") -> None:
        self.do(lambda: self.site.new_vm("web", offering=self.site.plain, host=self.site.host(host)))

    def restart(self) -> None:
        self.do(lambda: vms.stop(self.vm(), "alice", 0, True))
        self.do(lambda: vms.start(self.vm(), "alice"))

    def vm(self) -> Vm:
        with session():
            return Vm.get(Vm.name == "web")

    def sent(self) -> list[str]:
        """The models that its host was told."""
        (machine,) = [m for host in self.site.hosts.values() for m in host.vms.values()]
        return [cpu.model for cpu in machine.spec.cluster_cpus]

    def refusals(self) -> dict[str, str]:
        with session():
            return {found.host_name: found.refusal.code for found in vms.find_hosts(self.vm()) if found.refusal}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as (site, engine):
        yield Place(site, engine)


def test_vms_of_alike_hosts_have_their_hosts_cpu(place: Place) -> None:
    place.create()
    assert place.sent() == []
    with session():
        assert VmCpu.select().count() == 0
    assert "h2" not in place.refusals()


def test_vms_of_unlike_hosts_have_what_all_give_and_move_among_them(place: Place) -> None:
    place.tell(h2=NEW)
    place.create()
    assert sorted(place.sent()) == ["Haswell-noTSX", "Skylake-Server"]
    assert "h2" not in place.refusals()
    place.do(lambda: vms.migrate(place.vm(), "alice", place.site.host("h2")))


def test_a_vm_with_its_hosts_cpu_moves_to_no_other_until_it_starts_again(place: Place) -> None:
    place.create()
    place.tell(h2=NEW)
    assert place.refusals()["h2"] == "OTHER_CPU_MODEL"
    assert "h3" not in place.refusals()  # it does not say what it gives
    with pytest.raises(OstlerError) as caught:
        place.site.record(lambda: vms.migrate(place.vm(), "alice", place.site.host("h2")))
    assert caught.value.metadata.get("OTHER_CPU_MODEL")
    place.restart()
    assert "h2" not in place.refusals()
    place.tell(h2=OLD)
    place.restart()
    assert place.sent() == []
    with session():
        assert VmCpu.select().count() == 0


def test_drs_moves_a_vm_only_where_its_cpu_is_given(place: Place) -> None:
    place.create()
    place.tell(h2=NEW)

    def given() -> dict[str, bool]:
        with session():
            taken = snapshot.take(Cluster.get()).snapshot
        (vm,) = taken.vms
        return {host.name: not host.cpu_models or vm.cpu_model in host.cpu_models for host in taken.hosts}

    assert given() == {"h1": True, "h2": False, "h3": True}
    place.restart()
    assert given() == {"h1": True, "h2": True, "h3": True}
    place.tell(h2=vm_pb2.CpuModel(model="EPYC", vendor="AMD"))
    assert given() == {"h1": True, "h2": False, "h3": True}


def test_what_hosts_report_is_recorded_once(place: Place) -> None:
    host = place.site.host("h1")
    watched = store.WatchedHost(host.id, host.name, host.address, HostState.UP)

    def report(cpu: vm_pb2.CpuModel | None) -> Any:
        able = host_pb2.Capabilities(hypervisor_type="kvm", cpus=8, memory_bytes=8 << 30, guest_cpu=cpu)
        assert store.set_facts(watched, "", able) == ""
        with session():
            return HostCpu.get_or_none(HostCpu.host == host.id)

    first = report(OLD)
    assert report(OLD).create_time == first.create_time
    assert report(NEW).digest != first.digest
    assert report(None) is None


def test_a_cpu_that_became_known_after_a_start_was_recorded_does_not_count_in_its_repetition(place: Place) -> None:
    place.create()
    place.do(lambda: vms.stop(place.vm(), "alice", 0, True))
    place.do(lambda: vms.start(place.vm(), "alice"))
    with session():
        begun: Any = Operation.get(Operation.verb == "vm.start")
        host = Host.get_by_id(place.vm().host_id)
    place.tell(h2=NEW)
    assert cpus.at_start_of(begun.id, host.id).cpus == {}
