"""Reading files of backups, against agents that work in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf import json_format
from ostler.control.v1 import backup_pb2 as pb
from ostler.types.v1 import host_pb2
from ostler_common.errors import AbortedError, OstlerError
from ostler_control import vm_backups
from ostler_control.api.backups import BackupService
from ostler_control.models import Backup, Event, Host, Operation, PoolHost
from ostler_control.operations import Engine
from ostler_control.operations.records import ENDED
from ostler_control.volumes.download import transfer

from tests.fakes.working_agent import Fault, wait_until
from tests.sites import Site, outcome
from tests.unit.control.copies import file_of, refusal, running_vm, working
from tests.unit.control.test_backup_increments import back_up, disks
from tests.unit.control.test_downloads import Context

__all__ = ["working"]  # a fixture


@pytest.fixture(autouse=True)
def store(site: Site) -> Any:
    return site.add_backup_store()


@pytest.fixture
def backup(site: Site, engine: Engine) -> Backup:
    """The second of a chain."""
    vm = running_vm(site, engine, "web")
    back_up(site, engine, vm)
    return cast("Backup", back_up(site, engine, vm))


def read(engine: Engine, context: Context, backup: Backup, **wanted: Any) -> Iterator[pb.ReadBackupFilesResponse]:
    request = pb.ReadBackupFilesRequest(backup=backup.id, **wanted)
    service = BackupService(engine.agents, engine.keys)
    return service.ReadBackupFiles(request, cast("grpc.ServicerContext", context))


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def reason_or_none(call: Callable[[], object]) -> str:
    try:
        call()
    except OstlerError as error:
        return error.reason
    return ""


def last_begun(backup: Backup) -> Any:
    query = Operation.select().where((Operation.verb == "backup.read-files") & (Operation.resource_id == backup.id))
    return query.order_by(Operation.create_time.desc()).first()


def last(backup: Backup) -> Any:
    query = Operation.select().where((Operation.verb == "backup.read-files") & (Operation.resource_id == backup.id))
    wait_until(lambda: not query.where(Operation.state.not_in(ENDED)).exists())
    return query.order_by(Operation.create_time.desc()).first()


def test_file_systems_and_files_are_listed(site: Site, engine: Engine, backup: Backup) -> None:
    found = list(read(engine, Context(site.admin()), backup))
    assert [one.name for part in found for one in part.file_systems] == ["/dev/sda"]
    assert found[-1].complete
    found = list(read(engine, Context(site.admin()), backup, path=b"/"))
    assert [one.name for part in found for one in part.files] == [b"content"]
    assert last(backup).state == "succeeded"
    events = Event.select().where((Event.resource_id == backup.id) & (Event.type == "backup.read-files"))
    assert {event.actor for event in events} == {site.admin().actor}


def test_a_host_that_has_the_program_reads_them(site: Site, engine: Engine, backup: Backup) -> None:
    """The others would have to refuse."""
    hosts = list(Host.select().join(PoolHost).where((PoolHost.pool == backup.pool_id) & Host.volume_encryption))
    assert len(hosts) > 1
    chosen = hosts[-1].name
    for host in hosts:
        proved = host_pb2.Capabilities(probes=[host_pb2.Probe(name="backup-files.guestfish", ok=host.name == chosen)])
        Host.update(capabilities=json_format.MessageToJson(proved)).where(Host.id == host.id).execute()
        if host.name != chosen:
            no = AbortedError("guestfish is not installed", "TOOL_MISSING")
            site.hosts[host.name].fail("ReadBackupFiles", Fault(no))
    for _ in range(3):
        assert list(read(engine, Context(site.admin()), backup))[-1].complete
    for fake in site.hosts.values():
        fake.faults.clear()


def test_content_is_read_through_all_that_a_backup_builds_on(site: Site, engine: Engine, backup: Backup) -> None:
    content = file_of(site, disks(backup)[0]).content.encode()
    found = list(read(engine, Context(site.admin()), backup, path=b"/content", content=True))
    assert b"".join(part.data for part in found) == content
    assert found[-1].sha256 == hashlib.sha256(content).hexdigest()


def test_a_backup_is_not_deleted_while_it_is_read(site: Site, engine: Engine, backup: Backup) -> None:
    parts = read(engine, Context(site.admin()), backup, path=b"/content", content=True)
    while not next(parts).data:
        pass
    assert refusal(site, lambda: vm_backups.delete(backup, "alice")) == "RESOURCE_BUSY"
    list(parts)
    assert last(backup).state == "succeeded"


def test_a_caller_who_goes_away_frees_the_backup(site: Site, engine: Engine, backup: Backup) -> None:
    parts = read(engine, Context(site.admin()), backup, path=b"/content", content=True)
    while not next(parts).data:
        pass
    cast("Any", parts).close()
    assert last(backup).state == "cancelled"
    context = Context(site.admin())
    parts = read(engine, context, backup, path=b"/content", content=True)
    context.gone.set()
    assert [part.data for part in parts if part.data] == []
    assert last(backup).state == "cancelled"
    assert outcome(engine, site.record(lambda: vm_backups.delete(backup, "alice")))[0] == "succeeded"


@pytest.mark.parametrize("by_caller", [True, False])
def test_the_end_of_the_call_is_heard_while_the_host_is_silent(
    site: Site, engine: Engine, backup: Backup, by_caller: bool
) -> None:
    hold = threading.Event()
    faults = [fake.fail("ReadBackupFiles", Fault(hold=hold)) for fake in site.hosts.values()]
    context = Context(site.admin())
    parts = read(engine, context, backup, path=b"/content", content=True)
    caller = threading.Thread(target=lambda: ended.append(reason_or_none(lambda: list(parts))))
    ended: list[str] = []
    caller.start()
    wait_until(lambda: any(fault.reached.is_set() for fault in faults))
    if by_caller:
        context.gone.set()
    else:
        engine.cancel(last_begun(backup).id)
    caller.join(20)
    assert ended == ["" if by_caller else "CANCELLED"]
    assert last(backup).state == "cancelled"
    hold.set()
    for fake in site.hosts.values():
        fake.faults.clear()


def test_what_the_host_refuses_is_told(site: Site, engine: Engine, backup: Backup) -> None:
    for fake in site.hosts.values():
        fake.fail("ReadBackupFiles", Fault(AbortedError("the disks are broken", "FILES_UNREADABLE")))
    assert reason(lambda: list(read(engine, Context(site.admin()), backup))) == "FILES_UNREADABLE"
    assert last(backup).state == "failed"


@pytest.mark.parametrize(
    "wanted",
    [
        {"path": b"etc"},
        {"path": b"/e\0tc"},
        {"path": b"/" * 4097},
        {"path": b"/", "file_system": "a" * 257},
        {"path": b"/", "file_system": "\x1b"},
        {"content": True},
        {"file_system": "/dev/sda1"},
    ],
)
def test_a_wrong_request_is_refused_before_anything_begins(
    site: Site, engine: Engine, backup: Backup, wanted: dict[str, Any]
) -> None:
    assert reason(lambda: list(read(engine, Context(site.admin()), backup, **wanted))) in ("INVALID_FIELD", "REQUIRED")
    assert last(backup) is None


def test_an_operation_without_its_caller_ends(site: Site, engine: Engine, backup: Backup) -> None:
    """Another process goes on with it, or this one after a restart."""
    with transfer(None) as lost:
        lost.finished.set()
    wanted = vm_backups.WantedFiles(b"", "", content=False)
    operation = site.record(lambda: vm_backups.read_files(backup, wanted, "alice", lost.operation_id))
    assert outcome(engine, operation) == ("failed", "DOWNLOAD_INTERRUPTED")
