"""Types of hypervisor: learned from hosts, named by the administrator, kept apart, refused what they cannot do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from ostler.control.v1 import hypervisor_pb2, setting_pb2, template_pb2, zone_pb2
from ostler.types.v1 import host_pb2, volume_pb2
from ostler_common.errors import OstlerError
from ostler_common.hypervisors import Function
from ostler_control import settings, vms, volumes
from ostler_control.api.convert import core
from ostler_control.api.convert import templates as convert_templates
from ostler_control.api.convert import vms as convert_vms
from ostler_control.api.hypervisors import HypervisorService
from ostler_control.api.settings import SettingService
from ostler_control.api.templates import _hypervisor_type
from ostler_control.api.zones import ClusterService
from ostler_control.drs_plans import evacuate, scheduler
from ostler_control.drs_plans.generate import generate
from ostler_control.fleet import store
from ostler_control.hosts import manage as manage_hosts
from ostler_control.hosts.choose import choose_host
from ostler_control.hosts.probes import failed_probe
from ostler_control.hypervisors import rules
from ostler_control.models import (
    Cluster,
    Host,
    HostState,
    HypervisorType,
    Pool,
    PoolHost,
    Template,
    Vm,
    Volume,
    Zone,
    new_id,
    now,
)
from ostler_control.operations import Engine
from ostler_control.templates import store as template_store
from ostler_control.templates.received import Announced
from ostler_control.vms.console import log_host, screen_host, screenshot, send_key

from tests import databases
from tests.sites import GIB, MIB, Site, outcome, site_at_work
from tests.unit.control import calls

CONTEXT = calls.context(calls.admin())
EVERYTHING = tuple(Function)
OK = ("succeeded", "")
_numbers = itertools.count(1)


def report(host_type: str, name: str, functions: Sequence[str] = (), formats: Sequence[str] = ("raw",)) -> Any:
    return host_pb2.Capabilities(
        hypervisor_type=host_type,
        hypervisor_display_name=name,
        functions=functions,
        template_formats=[volume_pb2.DiskFormat.Value(f"DISK_FORMAT_{word.upper()}") for word in formats],
        pool_types=["local"],
        cpus=8,
        memory_bytes=64 * GIB,
    )


KVM = report("kvm", "KVM", EVERYTHING, ("qcow2", "raw"))
CUSTOM = report("custom", "QEMU over QMP", ["direct-download"])


def new_cluster(name: str = "", **fields: Any) -> Any:
    zone = Zone.get_or_none(Zone.name == "zone") or Zone.create(name="zone")
    return Cluster.create(name=name or f"c{next(_numbers)}", zone=zone, **fields)


def says(capabilities: Any, cluster: Any = None) -> tuple[Any, str]:
    """A host that joined before it reported; what is wrong with it, if anything."""
    number = next(_numbers)
    host: Any = Host.create(name=f"n{number}", address=f"n{number}:1", cluster=cluster or new_cluster(), state="up")
    complaint = store.set_facts(store.WatchedHost(host.id, host.name, host.address, HostState.UP), "1", capabilities)
    return Host.get_by_id(host.id), complaint


def refusal(call: Callable[[], object]) -> OstlerError:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value


def set_to(name: str, value: str) -> None:
    SettingService().UpdateSetting(setting_pb2.UpdateSettingRequest(name=name, value=value), CONTEXT)


def shown(name: str) -> str:
    return SettingService().GetSetting(setting_pb2.GetSettingRequest(name=name), CONTEXT).value


def listed() -> dict[str, hypervisor_pb2.HypervisorType]:
    found = HypervisorService().ListHypervisorTypes(hypervisor_pb2.ListHypervisorTypesRequest(), CONTEXT)
    return {row.type: row for row in found.hypervisor_types}


def new_cluster_of(hypervisor: str) -> zone_pb2.Cluster:
    new_cluster()
    request = zone_pb2.CreateClusterRequest(name=f"x{next(_numbers)}", zone="zone", hypervisor_type=hypervisor)
    return ClusterService().CreateCluster(request, CONTEXT)


# -- learned from hosts


@pytest.mark.usefixtures("fresh_database")
def test_a_type_is_known_from_the_first_report_on() -> None:
    assert list(listed()) == ["custom"]
    error = refusal(lambda: new_cluster_of("KVM"))
    assert error.reason == "UNKNOWN_HYPERVISOR_TYPE"
    assert "known: Custom" in error.message
    host, complaint = says(KVM)
    assert (complaint, host.cluster.hypervisor_type) == ("", "kvm")
    row = listed()["kvm"]
    assert (row.display_name, row.host_count, row.up_count, row.cluster_count) == ("KVM", 1, 1, 1)
    assert row.functions == sorted(EVERYTHING)
    assert row.template_formats == [volume_pb2.DISK_FORMAT_QCOW2, volume_pb2.DISK_FORMAT_RAW]
    assert (list(row.pool_types), row.allowed, list(row.conflicts)) == (["local"], True, [])
    cluster = new_cluster_of(" kVm")
    assert (cluster.hypervisor_type, cluster.hypervisor_display_name) == ("kvm", "KVM")
    Host.update(removed=True).execute()
    assert listed()["kvm"].host_count == 0
    request = hypervisor_pb2.GetHypervisorTypeRequest(hypervisor_type="Kvm")
    assert HypervisorService().GetHypervisorType(request, CONTEXT).type == "kvm"


@pytest.mark.usefixtures("sqlite_database")
def test_hosts_that_contradict_each_other_are_listed() -> None:
    says(report("acme", "Acme", ["reboot"]))
    says(report("acme", "Acme", ["reboot", "screenshot"], ("raw", "qcow2")))
    row = listed()["acme"]
    assert row.functions == ["reboot", "screenshot"], "what any of them says"
    assert len(row.conflicts) == 2
    assert "template formats" in row.conflicts[0]
    assert "reboot,screenshot" in row.conflicts[1]
    assert list(row.partial_functions) == ["screenshot"], "what not all of them say"


@pytest.mark.usefixtures("sqlite_database")
def test_a_type_is_found_by_what_its_driver_calls_it_unless_two_drivers_do() -> None:
    says(CUSTOM)
    assert rules.find("qemu over QMP", "f").type == "custom"
    set_to("hypervisor.custom.display.name", "Firecracker")
    assert rules.find("QEMU over QMP", "f").type == "custom"
    says(report("acme", "QEMU over QMP"))
    assert rules.find("QEMU over QMP", "f").type == "acme", "its display name comes before what a driver calls another"
    says(report("bell", "QEMU over QMP"))
    assert rules.find("QEMU over QMP", "f").type == "acme"
    assert refusal(lambda: rules.find("QEMU", "f")).reason == "UNKNOWN_HYPERVISOR_TYPE"


@pytest.mark.usefixtures("sqlite_database")
def test_names_of_types_never_mean_two() -> None:
    says(KVM)
    says(report("acme", "kvm"))
    says(report("bell", "a,b"))
    says(report("corp", "Custom"))
    found = listed()
    assert [found[word].display_name for word in ("acme", "bell", "corp", "kvm")] == ["acme", "bell", "corp", "KVM"]
    assert all(found[word].conflicts for word in ("acme", "bell", "corp"))
    assert rules.find("KVM", "f").type == "kvm"
    set_to("hypervisor.custom.display.name", "Delta")
    says(report("delta", "D"))
    assert rules.find("delta", "f").type == "delta"
    assert "rename this one" in listed()["custom"].conflicts[0]


@pytest.mark.usefixtures("sqlite_database")
@pytest.mark.parametrize("word", ["KVM", "two words", "none", "a,b", "é"])
def test_a_type_that_is_no_word_is_not_let_in(word: str) -> None:
    host, complaint = says(report(word, "X"))
    assert "not a lower-case word" in complaint
    assert host.cluster.hypervisor_type == ""
    assert HypervisorType.select().count() == 0


# -- clusters


@pytest.mark.usefixtures("fresh_database")
def test_a_host_of_another_type_is_kept_out() -> None:
    kvm, _ = says(KVM)
    stranger, complaint = says(CUSTOM, kvm.cluster)
    assert complaint.startswith(f"the hypervisor of host {stranger.name} is Custom, and cluster")
    assert Cluster.get_by_id(kvm.cluster_id).hypervisor_type == "kvm"
    error = refusal(lambda: manage_hosts.update(stranger, {"enabled": True}, "root"))
    assert error.reason == "OTHER_HYPERVISOR_TYPE"
    manage_hosts.update(stranger, {"enabled": False}, "root")
    assert refusal(lambda: rules.admit(kvm.cluster, "h9", "custom")).reason == "OTHER_HYPERVISOR_TYPE"
    empty = new_cluster()
    rules.admit(empty, "h9", "custom")
    rules.admit(empty, "h10", "custom")
    assert refusal(lambda: rules.admit(empty, "h11", "kvm")).reason == "OTHER_HYPERVISOR_TYPE", "as read before"


# -- the custom type's name


@pytest.mark.usefixtures("sqlite_database")
def test_the_custom_type_is_called_what_the_administrator_says() -> None:
    host, _ = says(CUSTOM)
    template = Template.create(
        name="t", format="raw", virtual_size_bytes=1, file_size_bytes=1, sha256="", hypervisor_type="custom"
    )
    assert listed()["custom"].display_name == "Custom"
    set_to("hypervisor.custom.display.name", "Old Name")
    assert new_cluster_of("old name").hypervisor_type == "custom"
    set_to("hypervisor.custom.display.name", "Firecracker")
    assert refusal(lambda: new_cluster_of("Old Name")).reason == "UNKNOWN_HYPERVISOR_TYPE"
    assert new_cluster_of("firecracker").hypervisor_display_name == "Firecracker"
    assert new_cluster_of("custom").hypervisor_display_name == "Firecracker", "the type's own word never changes"
    assert convert_templates.template(template, calls.admin()).hypervisor_display_name == "Firecracker"
    row: Any = Cluster.get_by_id(host.cluster_id)
    assert core.cluster(row, 1, rules.names(), {}).hypervisor_display_name == "Firecracker"


@pytest.mark.usefixtures("sqlite_database")
@pytest.mark.parametrize("name", ["", "  ", "KVM", "kvm", "acme", "ACME cloud", "None", "a,b", "a\nb", "x" * 33, "-x"])
def test_names_that_the_custom_type_cannot_have(name: str) -> None:
    says(KVM)
    says(report("acme", "Acme Cloud"))
    error = refusal(lambda: set_to("hypervisor.custom.display.name", name))
    assert error.reason == "INVALID_SETTING"
    assert shown("hypervisor.custom.display.name") == "Custom"


@pytest.mark.usefixtures("fresh_database")
def test_the_list_follows_a_rename_as_a_list() -> None:
    """CloudStack replaces text: renaming "Custom" there would spoil "CustomPlus"."""
    says(KVM)
    says(report("customplus", "CustomPlus"))
    set_to("hypervisor.list", " customPLUS , Custom,kvm, Custom")
    assert settings.hypervisors.HYPERVISOR_LIST.get() == ("custom", "customplus", "kvm")
    assert shown("hypervisor.list") == "Custom, CustomPlus, KVM"
    set_to("hypervisor.custom.display.name", "Plus")
    assert shown("hypervisor.list") == "Plus, CustomPlus, KVM"
    assert settings.hypervisors.HYPERVISOR_LIST.get() == ("custom", "customplus", "kvm")
    set_to("hypervisor.list", shown("hypervisor.list"))
    assert settings.hypervisors.HYPERVISOR_LIST.get() == ("custom", "customplus", "kvm")
    error = refusal(lambda: set_to("hypervisor.list", "KVM, Xen"))
    assert error.reason == "INVALID_SETTING"
    assert "known: Plus, CustomPlus, KVM" in error.message
    set_to("hypervisor.list", "")
    assert rules.allowed() == frozenset()


@pytest.mark.usefixtures("sqlite_database")
def test_a_type_that_is_not_listed_gets_no_new_cluster() -> None:
    says(KVM)
    says(CUSTOM)
    set_to("hypervisor.list", "Custom")
    error = refusal(lambda: new_cluster_of("kvm"))
    assert (error.reason, error.metadata["hypervisor_type"]) == ("HYPERVISOR_NOT_ALLOWED", "kvm")
    assert "has only Custom" in error.message
    assert new_cluster_of("custom").hypervisor_type == "custom"
    late, complaint = says(KVM)
    assert "are not allowed" in complaint
    assert late.cluster.hypervisor_type == ""
    assert [row.allowed for row in listed().values()] == [True, False]


# -- templates


@pytest.mark.usefixtures("sqlite_database")
def test_a_template_is_for_a_type_that_has_disks_of_its_format() -> None:
    says(CUSTOM)
    assert _hypervisor_type("", "qcow2", "f") == ""
    assert _hypervisor_type("CUSTOM", "raw", "f") == "custom"
    assert refusal(lambda: _hypervisor_type("Custom", "qcow2", "f")).reason == "FORMAT_NOT_SUPPORTED"
    assert refusal(lambda: _hypervisor_type("kvm", "raw", "f")).reason == "UNKNOWN_HYPERVISOR_TYPE"
    assert template_store.NewTemplate("t", "bios", Announced("raw", 1)).hypervisor_type == ""
    assert template_pb2.Template.DESCRIPTOR.fields_by_name["hypervisor_type"]


# -- VMs, beside hosts of another type


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Engine]]:
    """The site of everybody's, and h4 in a cluster of its own: of type custom, with a pool of its own."""
    state_dir = tmp_path_factory.mktemp("site")
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as (site, engine):
        zone = Zone.get()
        host_id = new_id()
        site.hosts["h4"] = site.fleet.add_host("h4", host_id)
        Host.create(
            id=host_id, name="h4", address=site.hosts["h4"].address, state="up",
            cluster=Cluster.create(name="custom", zone=zone, cpu_overcommit=4.0),
        )  # fmt: skip
        pool = Pool.create(
            name="local4", type="local", scope="host", scope_id=host_id, path="/local4", encryption=True,
            capacity_bytes=1 << 40, available_bytes=1 << 40, measure_time=now(),
        )  # fmt: skip
        PoolHost.create(pool=pool, host=host_id, reachable=True)
        site.hosts["h4"].pools.add(pool.id)
        site.pools["local4"] = pool
        store.set_facts(store.WatchedHost(host_id, "h4", site.hosts["h4"].address, HostState.UP), "1", CUSTOM)
        h1 = site.host("h1")
        store.set_facts(store.WatchedHost(h1.id, "h1", h1.address, HostState.UP), "1", _with_encryption(KVM))
        yield site, engine


def _with_encryption(capabilities: Any) -> Any:
    found = host_pb2.Capabilities()
    found.CopyFrom(capabilities)
    found.volume_encryption = found.uefi = True
    found.cpus, found.memory_bytes = 64, 256 * GIB
    found.bridges.append("br0")
    return found


@pytest.fixture
def raw(working: tuple[Site, Engine]) -> Iterator[Any]:
    """A RAW template for the custom type, and a site that every test leaves whole."""
    site, engine = working
    fields = {**vars(site.template)["__data__"], "id": new_id(), "name": f"raw{next(_numbers)}", "format": "raw"}
    template = Template.create(**{**fields, "hypervisor_type": "custom"})
    yield template
    for vm in list(Vm.select()):
        assert outcome(engine, site.record(lambda vm=vm: vms.delete(vm, "root", force=True))) == OK  # type: ignore[misc]
    for volume in list(Volume.select()):
        assert outcome(engine, site.record(lambda volume=volume: volumes.delete(volume, "root"))) == OK  # type: ignore[misc]
    settings.reset("hypervisor.list", "root")
    site.check_whole()


def custom_vm(site: Site, engine: Engine, name: str, template: Any) -> Any:
    operation = site.record(lambda: site.new_vm(name, template=template, offering=site.plain))
    assert outcome(engine, operation) == OK
    return Vm.get_by_id(operation.resource_id)


def test_a_vm_of_a_custom_hypervisor_lives_like_any(working: tuple[Site, Engine], raw: Any) -> None:
    site, engine = working
    vm = custom_vm(site, engine, "small", raw)
    assert (vm.host.name, vm.hypervisor_type) == ("h4", "custom")
    root: Any = Volume.get(Volume.vm_id == vm.id)
    assert (root.format, root.pool.name) == ("raw", "local4")
    assert convert_vms.vm(vm, site.admin()).hypervisor_display_name == "Custom"
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice", 0, True))) == OK
    new = volumes.NewVolume("data", site.account, site.disks["raw"], size_bytes=4 * MIB, pool=site.pools["local4"])
    qcow2 = volumes.NewVolume("q", site.account, site.disks["plain"], size_bytes=4 * MIB, pool=site.pools["local4"])
    error = refusal(lambda: site.record(lambda: volumes.create(qcow2, "alice", site.keys)))
    assert (error.reason, error.metadata["hypervisor_type"]) == ("FORMAT_NOT_SUPPORTED", "Custom")
    made = site.record(lambda: volumes.create(new, "alice", site.keys))
    assert outcome(engine, made) == OK
    data: Any = Volume.get_by_id(made.resource_id)
    assert outcome(engine, site.record(lambda: volumes.attach(data, vm, "alice"))) == OK
    assert outcome(engine, site.record(lambda: volumes.grow(data, 8 * MIB, "alice"))) == OK
    assert outcome(engine, site.record(lambda: vms.start(vm, "alice"))) == OK
    host_now = Vm.get_by_id(vm.id).host
    assert host_now is not None
    assert host_now.name == "h4"


def test_vms_keep_to_their_type(working: tuple[Site, Engine], raw: Any) -> None:
    site, engine = working
    vm = custom_vm(site, engine, "one", raw)
    assert outcome(engine, site.record(lambda: vms.stop(vm, "alice", 0, True))) == OK
    Volume.update(pool=site.pools["shared"]).where(Volume.vm_id == vm.id).execute()  # as on a pool of the zone
    refusals = {found.host_name: found.refusal for found in vms.find_hosts(Vm.get_by_id(vm.id)) if found.refusal}
    assert [refusals[name].code for name in ("h1", "h2", "h3")] == ["OTHER_HYPERVISOR_TYPE"] * 3
    assert refusals["h1"].explanation == "it runs KVM, not Custom"
    Volume.update(pool=site.pools["local4"]).where(Volume.vm_id == vm.id).execute()
    kvm = site.record(lambda: site.new_vm("two", offering=site.plain))
    assert outcome(engine, kvm) == OK
    assert Vm.get_by_id(kvm.resource_id).hypervisor_type == "kvm"


def test_what_a_type_cannot_do_is_refused_by_name(working: tuple[Site, Engine], raw: Any) -> None:
    site, engine = working
    vm = custom_vm(site, engine, "bare", raw)
    data: Any = Volume.create(
        name="more", account=site.account, pool=site.pools["local4"], state="ready", size_bytes=MIB, format="raw"
    )
    root: Any = Volume.get(Volume.vm_id == vm.id)
    cluster, host = vm.host.cluster, vm.host
    asked: dict[Function, list[Callable[[], object]]] = {
        Function.LIVE_MIGRATION: [
            lambda: site.record(lambda: vms.migrate(vm, "alice")),
            lambda: generate(cluster),
            lambda: evacuate.evacuation(Host(id=host.id, name="h4", maintenance=True, cluster=cluster)),
        ],
        Function.REBOOT: [lambda: site.record(lambda: vms.reboot(vm, "alice"))],
        Function.SCREENSHOT: [lambda: screenshot(engine.agents, vm)],
        Function.SCREEN: [lambda: screen_host(vm)],
        Function.CONSOLE_LOG: [lambda: log_host(vm)],
        Function.SEND_KEY: [lambda: send_key(engine.agents, vm, "enter", "alice")],
        Function.HOT_PLUG: [lambda: site.record(lambda: volumes.attach(data, vm, "alice"))],
        Function.ONLINE_GROW: [lambda: site.record(lambda: volumes.grow(root, root.size_bytes + MIB, "alice"))],
        Function.VOLUME_ENCRYPTION: [lambda: site.record(lambda: site.new_vm("x", template=raw))],
        Function.NICS: [
            lambda: site.record(
                lambda: site.new_vm("x", template=raw, offering=site.plain, nics=[vms.NewNic(site.network)])
            )
        ],
    }  # fmt: skip
    for function, requests in asked.items():
        for request in requests:
            error = refusal(request)
            found = (error.reason, error.metadata["function"], error.metadata["hypervisor_type"])
            assert found == ("FUNCTION_NOT_SUPPORTED", function, "Custom")
            assert function in error.message
    assert scheduler.next_time(cluster) is None
    Volume.delete().where(Volume.id == data.id).execute()
    assert Vm.select().count() == 1


def test_a_place_of_another_type_is_refused_with_the_reason(working: tuple[Site, Engine], raw: Any) -> None:
    site, _ = working
    cluster = Cluster.get(Cluster.name == "custom")
    wrong = refusal(lambda: site.record(lambda: site.new_vm("x", template=raw, host=site.host("h1"))))
    assert (wrong.reason, "host h1 has only KVM" in wrong.message) == ("OTHER_HYPERVISOR_TYPE", True)
    unable = refusal(lambda: choose_host(site.pools["local4"], True, lambda _: 0))
    assert (unable.reason, unable.metadata["function"]) == ("FUNCTION_NOT_SUPPORTED", "volume-encryption")
    assert failed_probe(site.host("h4")) == "hypervisors of type Custom do not support it"
    qcow2 = refusal(lambda: site.record(lambda: site.new_vm("x", offering=site.plain, cluster=cluster)))
    assert qcow2.reason == "FORMAT_NOT_SUPPORTED"
    set_to("hypervisor.list", "KVM")
    banned = refusal(lambda: site.record(lambda: site.new_vm("x", template=raw, offering=site.plain)))
    assert (banned.reason, "Custom are not allowed" in banned.message) == ("HYPERVISOR_NOT_ALLOWED", True)
