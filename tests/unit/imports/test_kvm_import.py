"""Imports from another KVM host, from request to end: agents that work in memory on one side and on the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError
from ostler_common.secret import Secret
from ostler_control import settings
from ostler_control.database import session
from ostler_control.imports import kvm_source, sources, sweep
from ostler_control.imports.facts import preflight
from ostler_control.imports.preflight import Severity
from ostler_control.imports.wanted import DiskChoice, Wanted
from ostler_control.models import (
    Event,
    Host,
    ImportDiskPassphrase,
    ImportSource,
    KvmSource,
    Nic,
    Operation,
    Passphrase,
    ServiceOffering,
    Vm,
    VmImport,
    VmOrigin,
    Volume,
)
from ostler_control.operations import Engine

from tests import databases
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import GIB, Site, outcome, site_at_work
from tests.unit.imports.kvm_site import MIB, add_vm, check_nothing_left, new_source, record, wanted

OK = ("succeeded", "")
SECRET = b"of the source"


@pytest.fixture
def working(tmp_path: Path) -> Iterator[tuple[Site, Engine]]:
    with databases.bound(f"sqlite:///{tmp_path}/ostler.sqlite") as url, site_at_work(url, tmp_path) as working:
        Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
        ServiceOffering.create(name="two", cpus=2, memory_bytes=GIB, encrypt_root=True)
        yield working


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Site:
    return working[0]


@pytest.fixture
def engine(working: tuple[Site, Engine]) -> Engine:
    return working[1]


@pytest.fixture
def source(site: Site, engine: Engine) -> ImportSource:
    new = new_source()
    kvm_source.prove(new, engine.agents)
    return kvm_source.create(new, "root", site.keys)


def findings(site: Site, engine: Engine, what: Wanted) -> dict[str, Severity]:
    assert what.source is not None
    vm = kvm_source.find_vm(what.source, site.keys, engine.agents, what.source_vm)
    with session():
        return {finding.code: finding.severity for finding in preflight(what, vm, False).report.findings}


def fail(site: Site, method: str, fault: Fault) -> None:
    for fake in site.fleet.hosts.values():
        fake.fail(method, fault)


def test_a_vm_that_is_off_is_copied_straight_into_its_volumes(site: Site, engine: Engine, source: ImportSource) -> None:
    remote = add_vm(site, "web")
    settings.change("remote.kvm.instance.disks.copy.timeout", "7", "root")
    operation = record(site, engine.agents, wanted(site, source, "web"))
    assert VmImport.get().claimed_bytes == 0
    assert outcome(engine, operation) == OK
    vm = Vm.get_by_id(operation.resource_id)
    assert (vm.name, vm.state, vm.cpus, vm.memory_bytes, vm.firmware) == ("web", "running", 1, 256 * MIB, "uefi")
    root, data = Volume.select().where(Volume.vm_id == vm.id).order_by(Volume.slot)
    assert [site.fleet.pools[v.pool_id][v.id].content for v in (root, data)] == [
        f"{remote.vm_id} vda",
        f"{remote.vm_id} vdb",
    ]
    assert (root.encrypt_format, root.size_bytes) == ("luks", 8 * MIB)
    assert (data.encrypt_format, data.size_bytes) == ("none", 4 * MIB), "whole MiB, never less"
    [asked] = site.fleet.kvm.asked
    assert [[image.path for image in disk.images] for disk in asked.disks] == [
        ["/images/web.qcow2", "/images/base.raw"],
        ["/images/web-data.raw"],
    ]
    assert (asked.running, asked.timeout_s) == (False, 7 * 60)
    origin = VmOrigin.get()
    assert (origin.source_name, origin.source_ref, origin.guest_os) == ("old1", remote.vm_id, "debian")
    assert Nic.get().mac == remote.nics[0].mac
    assert "2 disks" in Event.get(Event.type == "vm.import.report").message
    assert VmImport.select().count() == 0
    assert site.fleet.staging == {}
    assert all("EndRemoteCopy" not in fake.calls for fake in site.fleet.hosts.values()), "there was nothing to end"


def test_a_running_vm_is_copied_and_its_copy_is_ended(site: Site, engine: Engine, source: ImportSource) -> None:
    add_vm(site, "db", running=True)
    what = wanted(site, source, "db")
    assert findings(site, engine, what)["WILL_COPY_RUNNING"] is Severity.WARNING
    operation = record(site, engine.agents, what)
    assert outcome(engine, operation) == OK
    [asked] = site.fleet.kvm.asked
    assert (asked.running, asked.copy_id) == (True, operation.id)
    assert site.fleet.kvm.copies == set()
    assert VmImport.select().count() == 0


def test_a_passphrase_opens_a_disk_and_is_gone_afterwards(site: Site, engine: Engine, source: ImportSource) -> None:
    add_vm(site, "vault", encrypted=True)
    site.fleet.kvm.passphrases["vda"] = SECRET
    assert findings(site, engine, wanted(site, source, "vault"))["PASSPHRASE_MISSING"] is Severity.ERROR
    unneeded = wanted(site, source, "vault", disks={2: DiskChoice(passphrase=Secret(SECRET))})
    assert "PASSPHRASE_NOT_NEEDED" in findings(site, engine, unneeded)
    what = wanted(site, source, "vault", disks={1: DiskChoice(passphrase=Secret(SECRET))})
    operation = record(site, engine.agents, what)
    [kept] = ImportDiskPassphrase.select()
    assert site.keys.open(kept).reveal() == SECRET
    assert SECRET.decode() not in Operation.get_by_id(operation.id).inputs
    assert outcome(engine, operation) == OK
    assert [disk.passphrase for disk in site.fleet.kvm.asked[0].disks] == [SECRET, b""]
    assert ImportDiskPassphrase.select().count() == 0
    root = Volume.get(Volume.root)
    assert {key.id for key in Passphrase.select()} == {source.passphrase_id, root.passphrase_id}


def test_a_wrong_passphrase_leaves_nothing(site: Site, engine: Engine, source: ImportSource) -> None:
    add_vm(site, "vault", encrypted=True)
    site.fleet.kvm.passphrases["vda"] = SECRET
    what = wanted(site, source, "vault", disks={1: DiskChoice(passphrase=Secret(b"wrong"))})
    assert outcome(engine, record(site, engine.agents, what)) == ("failed", "WRONG_KEY")
    check_nothing_left(site, source)


def test_what_does_not_map_is_told(site: Site, engine: Engine, source: ImportSource) -> None:
    vm = add_vm(site, "web", running=True, encrypted=True)
    vm.problems.add(code="TPM", text="it has a TPM", refuses=False)
    vm.problems.add(code="DISK_FORMAT", text="disk vdc has the format vmdk", refuses=True)
    found = findings(site, engine, wanted(site, source, "web"))
    assert found["TPM"] is Severity.WARNING
    assert found["DISK_FORMAT"] is found["RUNNING_ENCRYPTED"] is Severity.ERROR
    assert found["CHAIN_JOINED"] is Severity.INFO
    assert "NO_STAGING_POOL" not in found
    with pytest.raises(FailedPreconditionError) as refused:
        record(site, engine.agents, wanted(site, source, "web"))
    assert refused.value.reason == "IMPORT_REFUSED"
    assert Vm.select().count() == VmImport.select().count() == Operation.select().count() == 0


def test_an_interface_without_an_address_gets_one(site: Site, engine: Engine, source: ImportSource) -> None:
    add_vm(site, "web").nics[0].mac = ""
    assert outcome(engine, record(site, engine.agents, wanted(site, source, "web"))) == OK
    assert Nic.get().mac.startswith("52:54:00:")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("method", ["CopyRemoteDisks", "StartVm"])
def test_a_failure_at_a_host_leaves_nothing(
    site: Site, engine: Engine, source: ImportSource, method: str, before: bool
) -> None:
    add_vm(site, "db", running=True)
    fail(site, method, Fault(FailedPreconditionError("no", "NO_WAY"), before=before))
    assert outcome(engine, record(site, engine.agents, wanted(site, source, "db"))) == ("failed", "NO_WAY")
    check_nothing_left(site, source)


def test_cancelling_leaves_nothing(site: Site, engine: Engine, source: ImportSource) -> None:
    add_vm(site, "db", running=True)
    hold = Fault(hold=threading.Event())
    fail(site, "CopyRemoteDisks", hold)
    operation = record(site, engine.agents, wanted(site, source, "db"))
    engine.launch(operation)
    assert hold.reached.wait(30)
    engine.cancel(operation.id)
    wait_until(lambda: Operation.get_by_id(operation.id).state == "cancelled")
    check_nothing_left(site, source)


def test_a_copy_that_an_agents_death_interrupts_begins_anew(site: Site, engine: Engine, source: ImportSource) -> None:
    add_vm(site, "web")
    fail(site, "CopyRemoteDisks", Fault(UnavailableError("the agent restarted", "INTERRUPTED")))
    assert outcome(engine, record(site, engine.agents, wanted(site, source, "web"))) == OK
    assert len(site.fleet.kvm.asked) == 1


def test_a_source_that_is_silent_at_the_end_is_cleaned_up_later(
    site: Site, engine: Engine, source: ImportSource
) -> None:
    add_vm(site, "db", running=True)
    fail(site, "EndRemoteCopy", Fault(UnavailableError("no route", "SSH_FAILED"), times=1000))
    operation = record(site, engine.agents, wanted(site, source, "db"))
    assert outcome(engine, operation) == OK
    assert site.fleet.kvm.copies == {operation.id}
    assert VmImport.select().count() == 1
    for fake in site.fleet.hosts.values():
        fake.faults.clear()
    sweep.sweep(site.keys)
    wait_until(lambda: VmImport.select().count() == 0)
    assert site.fleet.kvm.copies == set()


@pytest.mark.parametrize(("copied", "ended"), [("h1", "h1"), ("h2", "h2"), ("h1", "h2")])
def test_the_host_that_copied_ends_what_is_left_before_others_do(
    site: Site, engine: Engine, source: ImportSource, copied: str, ended: str
) -> None:
    add_vm(site, "db", running=True)
    hosts = {host.name: site.at(host.id) for host in Host.select()}
    silent = UnavailableError("no route", "SSH_FAILED")
    fail(site, "EndRemoteCopy", Fault(silent))
    what = wanted(site, source, "db", conversion_host=Host.get(Host.name == copied))
    assert outcome(engine, record(site, engine.agents, what)) == OK
    assert len(site.fleet.kvm.copies) == 1
    for fake in hosts.values():
        fake.faults.clear()
        fake.calls.clear()
    if ended != copied:
        hosts[copied].fail("EndRemoteCopy", Fault(silent))
    sweep.sweep(site.keys)
    wait_until(lambda: VmImport.select().count() == 0)
    assert site.fleet.kvm.copies == set()
    assert {name for name, fake in hosts.items() if "EndRemoteCopy" in fake.calls} == {copied, ended}


def test_a_source_is_proved_changed_and_deleted(site: Site, engine: Engine, source: ImportSource) -> None:
    wrong = kvm_source.changed(source, None, Secret(b"another key"), site.keys)
    with pytest.raises(OstlerError) as refused:
        kvm_source.prove(wrong, engine.agents)
    assert refused.value.reason == "LOGIN_FAILED"
    kvm_source.update(
        source, kvm_source.changed(source, kvm_source.SshTrust("ada", ""), None, site.keys), "root", site.keys
    )
    row = ImportSource.get_by_id(source.id)
    assert (row.username, row.type, Passphrase.select().count()) == ("ada", "kvm", 1)
    with pytest.raises(OstlerError) as refused, sources.connect(row, site.keys):
        pytest.fail("it is no vCenter")
    assert refused.value.reason == "NOT_VMWARE"
    sources.delete(row, "root")
    assert KvmSource.select().count() == ImportSource.select().count() == Passphrase.select().count() == 0


def test_the_next_host_is_asked_when_one_does_not_reach_the_source(site: Site, engine: Engine) -> None:
    add_vm(site, "web")
    site.at(Host.get(Host.name == "h1").id).fail(
        "ListRemoteVms", Fault(UnavailableError("no route", "SSH_FAILED"), times=1000)
    )
    new = new_source()
    kvm_source.prove(new, engine.agents)
    row = kvm_source.create(new, "root", site.keys)
    assert [vm.name for vm in kvm_source.list_vms(row, site.keys, engine.agents)] == ["web"]
