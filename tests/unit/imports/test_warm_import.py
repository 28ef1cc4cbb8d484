"""Warm imports from request to end: the simulated vCenter with a guest that writes, agents that work in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ostler_common.errors import FailedPreconditionError, OstlerError, UnavailableError
from ostler_control.database import transaction
from ostler_control.imports import sources, sweep, warm_source
from ostler_control.imports.warm import request_cut_over
from ostler_control.models import (
    Event,
    Host,
    ImportSource,
    Operation,
    ServiceOffering,
    Vm,
    VmImport,
    Volume,
    WarmImport,
)
from ostler_control.operations import Engine
from ostler_control.vmware.connection import Connection
from ostler_control.vmware.inventory import Power
from ostler_control.vmware.tasks import Check

from tests import databases
from tests.fakes.vcenter import FakeVcenter, vcenter
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import GIB, Site, outcome, site_at_work
from tests.unit.imports.vm_imports import OK, check_nothing_left, new_source, record, refusal, wanted
from tests.unit.imports.warm_site import (
    DISK_BYTES,
    check_source_untouched,
    content,
    cut_over,
    guest_state,
    hurry,
    make_flat,
    snapshots,
    source_vm,
    wait_for_phase,
    warm_spec,
)
from tests.unit.vmware.conftest import MIB

WAITING = "waiting for the cut-over"


@pytest.fixture
def flats(tmp_path: Path) -> list[Path]:
    return [make_flat(tmp_path / f"disk{number}-flat.vmdk", 16 * number + 1) for number in range(2)]


@pytest.fixture
def server(tmp_path: Path, flats: list[Path]) -> Iterator[FakeVcenter]:
    tmp_path.joinpath("vc").mkdir()
    machines = [
        warm_spec("busy", flats),
        warm_spec("old", [], no_tracking=True),
        warm_spec("mute", [], tools=False),
        warm_spec("off", [], on=False),
    ]
    with vcenter(tmp_path / "vc", machines) as running:
        yield running


@pytest.fixture
def working(tmp_path: Path) -> Iterator[tuple[Site, Engine]]:
    state_dir = tmp_path / "site"
    state_dir.mkdir()
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url, site_at_work(url, state_dir) as working:
        Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
        ServiceOffering.create(name="two", cpus=2, memory_bytes=GIB, encrypt_root=True)
        hurry()
        yield working


@pytest.fixture
def site(working: tuple[Site, Engine]) -> Site:
    return working[0]


@pytest.fixture
def engine(working: tuple[Site, Engine]) -> Engine:
    return working[1]


@pytest.fixture
def source(site: Site, server: FakeVcenter) -> ImportSource:
    return sources.create(new_source(server), "root", site.keys)


def begin(site: Site, source: ImportSource, **changes: Any) -> Operation:
    operation: Operation = record(site, wanted(site, source, "busy", warm=True, **changes))
    return operation


def roots(operation: Operation) -> list[str]:
    return [row.id for row in Volume.select().where(Volume.vm_id == operation.resource_id).order_by(Volume.slot)]


def test_what_the_guest_writes_until_the_end_is_imported(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter, flats: list[Path]
) -> None:
    operation = begin(site, source)
    wait_for_phase(operation, WAITING)
    volumes = roots(operation)
    assert content(site, volumes[0]) == flats[0].read_bytes()
    assert content(site, volumes[1]) == flats[1].read_bytes()
    vm = source_vm(site, source, "busy")
    assert (vm.power, vm.change_tracking, vm.snapshots) == (Power.ON, True, 0)
    server.write("busy", MIB, b"new" * 1000)
    server.write("busy", 3 * MIB - 10, b"across a block's border", disk=1)
    server.write("busy", 0, bytes(100_000))
    with transaction():
        request_cut_over(Vm.get_by_id(operation.resource_id), "ada")
    assert Event.get(Event.type == "vm.import.cut-over").actor == "ada"
    assert outcome(engine, operation) == OK
    for volume, flat in zip(volumes, flats, strict=True):
        assert content(site, volume) == flat.read_bytes()
    assert b"newnew" in content(site, volumes[0])
    imported = Vm.get_by_id(operation.resource_id)
    assert (imported.state, Volume.get_by_id(volumes[0]).encrypt_format) == ("running", "luks")
    vm = source_vm(site, source, "busy")
    assert (vm.power, vm.change_tracking, vm.snapshots) == (Power.OFF, False, 0), "the source stays off"
    assert VmImport.select().count() == WarmImport.select().count() == 0
    assert site.fleet.staging == {}, "nothing was staged"


def test_only_what_changed_is_read_again(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter, flats: list[Path]
) -> None:
    """The copy is damaged where the guest does not write: a later round must not touch that."""
    operation = begin(site, source)
    wait_for_phase(operation, WAITING)
    [first, _] = roots(operation)
    site.fleet.written[first][5 * MIB : 5 * MIB + 4] = b"mark"
    server.write("busy", MIB, b"new")
    cut_over(operation)
    assert outcome(engine, operation) == OK
    assert content(site, first)[5 * MIB : 5 * MIB + 4] == b"mark"
    assert content(site, first)[MIB : MIB + 3] == b"new"


def test_a_cut_over_may_be_automatic(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter, flats: list[Path]
) -> None:
    operation = begin(site, source, auto_cut_over=True, stopped=True)
    assert outcome(engine, operation) == OK
    assert content(site, roots(operation)[0]) == flats[0].read_bytes()
    assert Vm.get_by_id(operation.resource_id).state == "stopped"


def test_what_a_guest_writes_during_a_round_comes_with_the_next(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter, flats: list[Path]
) -> None:
    hold = threading.Event()
    faults = [fake.fail("WriteDisk", Fault(hold=hold)) for fake in site.fleet.hosts.values()]
    operation = begin(site, source)
    wait_until(lambda: any(fault.reached.is_set() for fault in faults))
    before = flats[0].read_bytes()
    server.write("busy", 0, b"written behind the snapshot")
    assert flats[0].read_bytes() == before, "the base file is frozen"
    hold.set()
    wait_for_phase(operation, WAITING)
    cut_over(operation)
    assert outcome(engine, operation) == OK
    assert content(site, roots(operation)[0]).startswith(b"written behind the snapshot")


def test_lost_tracking_means_a_full_copy(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter, flats: list[Path]
) -> None:
    operation = begin(site, source)
    wait_for_phase(operation, WAITING)
    [first, _] = roots(operation)
    site.fleet.written[first][:] = b"x" * DISK_BYTES
    server.reset_tracking()
    cut_over(operation)
    assert outcome(engine, operation) == OK
    assert content(site, first) == flats[0].read_bytes(), "also where the disk has nothing"


def test_a_datastore_that_cannot_tell_what_is_in_use_is_read_in_full(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter, flats: list[Path]
) -> None:
    server.faults(no_allocated=True, folder_cuts=3)
    operation = begin(site, source, auto_cut_over=True)
    assert outcome(engine, operation) == OK
    assert content(site, roots(operation)[1]) == flats[1].read_bytes()


def test_the_session_may_expire_during_a_copy(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter, flats: list[Path]
) -> None:
    server.faults(folder_bytes_per_sec=150_000)
    operation = begin(site, source, auto_cut_over=True)
    wait_until(lambda: any("WriteDisk" in fake.calls for fake in site.fleet.hosts.values()))
    server.end_sessions()
    server.faults()
    assert outcome(engine, operation, 90) == OK
    assert content(site, roots(operation)[0]) == flats[0].read_bytes()


def test_a_host_that_breaks_off_is_tried_again(site: Site, engine: Engine, source: ImportSource) -> None:
    for fake in site.fleet.hosts.values():
        fake.fail("WriteDisk", Fault(UnavailableError("the agent restarts", "RPC")))
    assert outcome(engine, begin(site, source, auto_cut_over=True)) == OK


def test_an_interrupted_conversion_is_done_again_on_a_new_copy(
    site: Site, engine: Engine, source: ImportSource, flats: list[Path]
) -> None:
    interrupted = UnavailableError("the agent was killed", "INTERRUPTED")
    for fake in site.fleet.hosts.values():
        fake.fail("ConvertVolumes", Fault(interrupted, before=False))
    operation = begin(site, source)
    wait_for_phase(operation, WAITING)
    site.fleet.written[roots(operation)[0]][:] = b"half converted".ljust(DISK_BYTES, b"x")
    cut_over(operation)
    assert outcome(engine, operation) == OK
    assert content(site, roots(operation)[0]) == flats[0].read_bytes()


@pytest.mark.parametrize("phase", ["copying", WAITING, "converting"])
def test_cancelling_leaves_the_source_running_and_nothing_else(
    phase: str, site: Site, engine: Engine, source: ImportSource, server: FakeVcenter
) -> None:
    if phase == "copying":
        server.faults(folder_bytes_per_sec=50_000)
    if phase == "converting":
        for fake in site.fleet.hosts.values():
            fake.fail("ConvertVolumes", Fault(hold=threading.Event()))
    operation = begin(site, source, auto_cut_over=phase == "converting")
    if phase == "converting":
        wait_until(lambda: any("ConvertVolumes" in fake.calls for fake in site.fleet.hosts.values()))
        assert source_vm(site, source, "busy").power is Power.OFF
    else:
        wait_for_phase(operation, phase)
    engine.cancel(operation.id)
    assert outcome(engine, operation, 60) == ("cancelled", "CANCELLED")
    check_nothing_left(site, source, server)
    check_source_untouched(site, source, "busy")


def test_a_source_that_is_still_shutting_down_is_started_again(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter
) -> None:
    """The import is cancelled after the guest was asked, and before it has ended: then it runs for a while yet."""
    server.faults(shutdown_held=True)
    operation = begin(site, source, auto_cut_over=True)
    wait_until(lambda: guest_state(site, source, "busy") == "shuttingDown", 60)
    engine.cancel(operation.id)
    wait_for_phase(operation, "restoring the source")
    server.faults()
    assert outcome(engine, operation, 60) == ("cancelled", "CANCELLED")
    check_nothing_left(site, source, server)
    check_source_untouched(site, source, "busy")


def test_a_guest_that_was_never_asked_to_shut_down_is_not_waited_for(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(connection: Connection, ref: str, check: Check, **arguments: Any) -> None:
        raise FailedPreconditionError("no tools", "VCENTER_NO_TOOLS")

    monkeypatch.setattr(warm_source, "shut_down", refuse)
    monkeypatch.setattr(warm_source, "restart", None)
    assert outcome(engine, begin(site, source, auto_cut_over=True), 60) == ("failed", "VCENTER_NO_TOOLS")
    check_source_untouched(site, source, "busy")


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"snapshot_error": "the datastore is full"}, "VCENTER_FAULT"),
        ({"folder_status": 403}, "DISK_REFUSED"),
        ({"folder_status": 404}, "DISK_MOVED"),
    ],
)
def test_a_failure_at_the_source_leaves_nothing(
    faults: dict[str, Any], reason: str, site: Site, engine: Engine, source: ImportSource, server: FakeVcenter
) -> None:
    server.faults(**faults)
    assert outcome(engine, begin(site, source), 90) == ("failed", reason)
    check_nothing_left(site, source, server)
    check_source_untouched(site, source, "busy")


@pytest.mark.parametrize("method", ["CreateVolume", "WriteDisk", "ConvertVolumes", "StartVm"])
def test_a_failure_at_a_host_leaves_nothing(
    method: str, site: Site, engine: Engine, source: ImportSource, server: FakeVcenter
) -> None:
    for fake in site.fleet.hosts.values():
        fake.fail(method, Fault(FailedPreconditionError("no", "NO_WAY")))
    assert outcome(engine, begin(site, source, auto_cut_over=True)) == ("failed", "NO_WAY")
    check_nothing_left(site, source, server)
    check_source_untouched(site, source, "busy")


def test_what_vcenter_could_not_remove_is_swept_later(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter
) -> None:
    server.faults(remove_error="not now")
    operation = begin(site, source)
    assert outcome(engine, operation, 60)[0] == "failed"
    ref = source_vm(site, source, "busy").ref
    assert len(snapshots(site, source, ref)) > 0
    assert VmImport.get().id == operation.id
    server.faults()
    sweep.sweep(site.keys)
    wait_until(lambda: VmImport.select().count() == 0)
    check_nothing_left(site, source, server)
    check_source_untouched(site, source, "busy")


def test_a_vcenter_that_is_away_at_the_end_is_cleaned_up_later(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter
) -> None:
    """The VM runs here by then. The source must not be started, neither now nor by the sweep."""
    hold = threading.Event()
    faults = [fake.fail("StartVm", Fault(hold=hold)) for fake in site.fleet.hosts.values()]
    operation = begin(site, source, auto_cut_over=True)
    wait_until(lambda: any(fault.reached.is_set() for fault in faults))
    server.faults(soap_down=True)
    hold.set()
    assert outcome(engine, operation, 60) == OK
    assert VmImport.select().count() == 1
    server.faults()
    sweep.sweep(site.keys)
    wait_until(lambda: VmImport.select().count() == 0)
    vm = source_vm(site, source, "busy")
    assert (vm.power, vm.change_tracking, vm.snapshots) == (Power.OFF, False, 0)
    assert Vm.get_by_id(operation.resource_id).state == "running"


def test_a_disk_that_grew_beyond_its_volume_ends_the_import(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter
) -> None:
    operation = begin(site, source)
    wait_for_phase(operation, WAITING)
    Volume.update(size_bytes=DISK_BYTES - MIB).execute()
    cut_over(operation)
    assert outcome(engine, operation) == ("failed", "DISK_RESIZED")
    check_source_untouched(site, source, "busy")


def test_nobody_waits_for_a_cut_over_for_ever(
    site: Site, engine: Engine, source: ImportSource, server: FakeVcenter
) -> None:
    operation = begin(site, source)
    wait_for_phase(operation, WAITING)
    VmImport.update(create_time="2000-01-01 00:00:00").execute()
    assert outcome(engine, operation) == ("failed", "CUT_OVER_TIMEOUT")
    check_source_untouched(site, source, "busy")


@pytest.mark.parametrize(("vm", "finding"), [("old", "WARM_NO_TRACKING"), ("mute", "NO_TOOLS"), ("off", "WARM_VM_OFF")])
def test_what_cannot_be_copied_while_it_runs_is_refused(
    vm: str, finding: str, site: Site, source: ImportSource
) -> None:
    error: OstlerError = refusal(site, wanted(site, source, vm, warm=True))
    assert finding in error.metadata["findings"].split(",")


def test_a_cut_over_needs_a_warm_import(site: Site) -> None:
    with pytest.raises(FailedPreconditionError) as refused, transaction():
        request_cut_over(Vm(id="no such VM", name="none"), "ada")
    assert refused.value.reason == "NOT_A_WARM_IMPORT"
