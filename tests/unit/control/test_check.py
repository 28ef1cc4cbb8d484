"""`ostler-control check`: what a database and hosts that differ are found to be."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from ostler_common.errors import FailedPreconditionError
from ostler_control import check, database, events, vm_snapshots
from ostler_control.check import rows
from ostler_control.check.command import print_report
from ostler_control.check.findings import Finding, Reason, Report
from ostler_control.check.machines import Domain, VmRecord, compare_vms
from ostler_control.main import main
from ostler_control.models import Host, Vm, VmSnapshotMemory, Volume, VolumeFile
from ostler_control.operations import Engine
from ostler_control.scheduling import capacity
from ostler_control.states import PowerState, VmState
from peewee import InternalError, OperationalError

from tests import databases
from tests.sites import Site, outcome, site_at_work

SUCCEEDED = ("succeeded", "")


@pytest.fixture
def working(tmp_path: Path) -> Iterator[tuple[Site, Engine]]:
    url = f"sqlite:///{tmp_path}/ostler.sqlite"
    with databases.bound(url), site_at_work(url, tmp_path) as (site, engine):
        assert outcome(engine, site.record(lambda: site.new_vm("web"))) == SUCCEEDED
        yield site, engine


def look(site: Site, engine: Engine) -> Report:
    return check.inspect(engine.agents, site.keys)


def reasons(report: Report) -> list[tuple[Reason, str, str]]:
    return [(finding.reason, finding.object, finding.command) for finding in report.findings]


def test_a_whole_fleet_has_no_findings(working: tuple[Site, Engine]) -> None:
    report = look(*working)
    assert (report.findings, report.unchecked) == ((), ())
    assert report.checked == "3 of 3 hosts, 1 VMs, 1 of 1 files"


def test_a_volume_that_was_rekeyed_after_the_backup_is_found(working: tuple[Site, Engine]) -> None:
    site, engine = working
    volume = Volume.get()
    site.fleet.pools[volume.pool_id][volume.file_id].passphrase = b"of a later rekey"
    ((reason, name, command),) = reasons(look(site, engine))
    assert (reason, name) == (Reason.KEY_UNKNOWN, f"volume {volume.name}")
    assert command == "ostler-control restore NEWER-BACKUP --replace"


def test_a_volume_whose_rekey_broke_off_opens_with_the_other_key(working: tuple[Site, Engine]) -> None:
    site, engine = working
    volume = Volume.get()
    with database.transaction():
        other = site.keys.create(volume.id)
        row = VolumeFile.create(
            volume_id=volume.id, role="key", operation_id="x", pool=volume.pool, passphrase=other, size_bytes=1
        )
    site.fleet.pools[volume.pool_id][volume.file_id].passphrase = site.keys.open(row).reveal()
    assert [finding.reason for finding in look(site, engine).findings] == [Reason.KEY_OF_ANOTHER_ROW]


def test_a_volume_without_its_file_is_found(working: tuple[Site, Engine]) -> None:
    site, engine = working
    volume = Volume.get()
    site.fleet.pools[volume.pool_id].pop(volume.file_id)
    expected = (Reason.FILE_MISSING, f"volume {volume.name}", f"ostler volume delete {volume.name}")
    assert reasons(look(site, engine)) == [expected]


def test_memory_without_its_file_is_found(working: tuple[Site, Engine]) -> None:
    site, engine = working
    wanted = vm_snapshots.NewVmSnapshot(Vm.get(), "lively", memory=True)
    assert outcome(engine, site.record(lambda: vm_snapshots.create(wanted, "alice", site.keys))) == SUCCEEDED
    assert look(site, engine).checked == "3 of 3 hosts, 1 VMs, 3 of 3 files"
    memory = VmSnapshotMemory.get()
    site.fleet.pools[memory.pool_id].pop(memory.file_id)
    expected = (Reason.FILE_MISSING, "vm snapshot lively", "ostler vm snapshot delete lively")
    assert reasons(look(site, engine)) == [expected]


def test_a_file_that_is_not_encrypted_or_larger_than_recorded_is_found(working: tuple[Site, Engine]) -> None:
    site, engine = working
    volume = Volume.get()
    file = site.fleet.pools[volume.pool_id][volume.file_id]
    passphrase, file.size_bytes = file.passphrase, volume.size_bytes + 512
    expected = f"ostler volume grow {volume.name} {file.size_bytes}"
    assert reasons(look(site, engine)) == [(Reason.SIZE_DIFFERS, f"volume {volume.name}", expected)]
    file.size_bytes, file.passphrase = volume.size_bytes, b""
    assert [finding.reason for finding in look(site, engine).findings] == [Reason.HEADER_DIFFERS]
    file.passphrase = passphrase
    Volume.update(passphrase=None).execute()
    assert [finding.reason for finding in look(site, engine).findings] == [Reason.HEADER_DIFFERS]


def test_what_hosts_that_are_away_have_is_said_to_be_unchecked(working: tuple[Site, Engine]) -> None:
    site, engine = working
    for host in site.hosts.values():
        host.stop()
    report = look(site, engine)
    assert report.findings == ()
    away = [f"host {name} cannot be reached" for name in ("h1", "h2", "h3")]
    assert [line.split(":")[0] for line in report.unchecked[:3]] == away
    assert "no host that answers has its pool" in report.unchecked[3]


def test_a_vm_that_stopped_and_one_that_nobody_knows_are_found(working: tuple[Site, Engine]) -> None:
    site, engine = working
    vm = Vm.get()
    host = site.at(vm.host_id)
    host.vms[vm.id].running = False
    assert reasons(look(site, engine)) == [(Reason.VM_NOT_RUNNING, "VM web", "ostler vm start web")]
    machine = host.vms.pop(vm.id)
    host.vms["6f1c2d0a-2a52-4d0e-9f25-0a41c7a2f6de"] = machine
    found = reasons(look(site, engine))
    assert [(reason, command) for reason, _, command in found] == [
        (Reason.VM_NOT_RUNNING, "ostler vm stop web"),
        (Reason.VM_UNKNOWN, "ostler-control restore NEWER-BACKUP --replace"),
    ]


def test_the_definition_of_a_vm_that_was_deleted_meanwhile_is_found(working: tuple[Site, Engine]) -> None:
    site, engine = working
    id_ = "6f1c2d0a-2a52-4d0e-9f25-0a41c7a2f6de"
    host = site.at(Vm.get().host_id)
    machine = host.vms[id_] = copy.copy(host.vms[Vm.get().id])
    events.record("vm.delete", events.Outcome.SUCCEEDED, "ada", "vm", id_, "gone")
    # One that runs is data in use, whatever the log says.
    assert [reason for reason, _, _ in reasons(look(site, engine))] == [Reason.VM_UNKNOWN]
    machine.running = False
    [(reason, _, command)] = reasons(look(site, engine))
    assert (reason, command) == (Reason.VM_DEFINITION_LEFT, f"virsh -c qemu:///system undefine --nvram {id_}")


def test_claims_that_do_not_add_up_are_found_and_corrected(working: tuple[Site, Engine]) -> None:
    site, engine = working
    Host.update(allocated_cpus=Host.allocated_cpus + 1000).where(Host.name == "h1").execute()
    assert [finding.reason for finding in look(site, engine).findings] == [
        Reason.CLAIMS_DIFFER,
        Reason.CLAIMS_EXCEED_CAPACITY,
    ]
    assert [drift.host_name for drift in capacity.correct()] == ["h1"]
    assert capacity.correct() == []
    assert look(site, engine).findings == ()


def test_nothing_is_written_while_it_reads(working: tuple[Site, Engine]) -> None:
    with rows._reading(), pytest.raises(OperationalError, match="readonly"):
        Vm.update(name="other").execute()
    assert Vm.get().name == "web"


@pytest.mark.slow
def test_on_postgresql_it_writes_nothing(postgresql: str, tmp_path: Path) -> None:
    with (
        databases.bound(databases.new_database(postgresql, "checked")) as url,
        site_at_work(url, tmp_path) as (site, engine),
    ):
        operation = site.record(lambda: site.new_vm("web"))
        assert outcome(engine, operation) == SUCCEEDED
        Host.update(allocated_cpus=Host.allocated_cpus + 1).where(Host.name == "h2").execute()
        assert [finding.reason for finding in look(site, engine).findings] == [Reason.CLAIMS_DIFFER]
        with rows._reading(), pytest.raises(InternalError, match="read-only"):
            Vm.update(name="other").execute()
        assert [drift.host_name for drift in capacity.correct()] == ["h2"]
        assert look(site, engine).findings == ()


HOSTS = {"a": "h1", "b": "h2"}


@pytest.mark.parametrize(
    ("state", "home", "on", "expected"),
    [
        (VmState.RUNNING, "a", {"a": "running", "b": "running"}, Reason.VM_RUNS_TWICE),
        (VmState.RUNNING, "a", {"b": "running"}, Reason.VM_RUNS_ELSEWHERE),
        (VmState.STOPPED, "", {"b": "paused"}, Reason.VM_RUNS_ELSEWHERE),
        (VmState.RUNNING, "a", {"a": "stopped"}, Reason.VM_NOT_RUNNING),
        (VmState.RUNNING, "a", {"a": "running", "b": "stopped"}, None),
        (VmState.STOPPED, "", {"a": "stopped"}, None),
        (VmState.MIGRATING, "a", {"b": "running"}, None),
    ],
)
def test_where_a_vm_runs(state: VmState, home: str, on: dict[str, str], expected: Reason | None) -> None:
    domains = {
        host_id: [Domain("v", "web", PowerState(on[host_id]), True)] if host_id in on else [] for host_id in HOSTS
    }
    found = [finding.reason for finding in compare_vms([VmRecord("v", "web", state, home, False)], domains, HOSTS)]
    assert found == ([expected] if expected else [])


def test_a_vm_on_a_host_that_does_not_answer_is_not_called_stopped() -> None:
    assert list(compare_vms([VmRecord("v", "web", VmState.RUNNING, "a", False)], {"b": []}, HOSTS)) == []


def test_the_report_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(
        (Finding(Reason.CLAIMS_DIFFER, "host h1", "why", "ostler-control correct-claims"),), ("host h2",), "1"
    )
    print_report(report, "json")
    document = json.loads(capsys.readouterr().out)
    assert document["findings"] == [
        {
            "reason": "CLAIMS_DIFFER",
            "object": "host h1",
            "message": "why",
            "command": "ostler-control correct-claims",
            "severity": "warning",
        }
    ]
    assert document["unchecked"] == ["host h2"]
    print_report(report, "table")
    shown = capsys.readouterr()
    assert "CLAIMS_DIFFER" in shown.out
    assert "not checked: host h2" in shown.err


def test_without_a_database_it_says_so_and_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTLER_CONTROL_STATE_DIR", str(tmp_path))
    for command in ("check", "correct-claims"):
        refused = CliRunner().invoke(main, [command])
        assert refused.exit_code == 1
        assert "there is no database" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_another_release_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ostler.sqlite"
    with databases.bound(url, migrate=False), pytest.raises(FailedPreconditionError, match="not of this release"):
        rows.read()
