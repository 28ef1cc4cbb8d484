"""Downloads of volumes, against agents that work in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from ostler.control.v1 import volume_pb2 as pb
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_control import vms, volumes
from ostler_control.api.volumes import VolumeService
from ostler_control.caller import Caller
from ostler_control.models import Account, Event, Operation, Passphrase, Pool, Snapshot, Vm, Volume, VolumeFile
from ostler_control.operations import Engine
from ostler_control.operations.records import ENDED
from ostler_control.volumes.download import transfer

from tests.fakes.working_agent import Fault, File, wait_until
from tests.sites import MIB, Site, outcome
from tests.unit.control import calls

CHOSEN = b"a passphrase of the caller's"
LUKS, RAW = types_pb2.ENCRYPT_FORMAT_LUKS, types_pb2.DISK_FORMAT_RAW


class Context:
    """A call that lasts until `gone` is set."""

    def __init__(self, caller: Caller) -> None:
        self._ostler_call = calls.context(caller)._ostler_call  # type: ignore[attr-defined]
        self.gone = threading.Event()

    def is_active(self) -> bool:
        return not self.gone.is_set()


def wait_until_idle() -> None:
    """Waits until no operation is under way, and no export is left."""
    wait_until(lambda: not Operation.select().where(Operation.state.not_in(ENDED)).exists())
    assert list(VolumeFile.select()) == []


def new_volume(site: Site, engine: Engine, name: str = "data", kind: str = "encrypted") -> Any:
    new = volumes.NewVolume(name, site.account, site.disks[kind], size_bytes=4 * MIB)
    operation = site.record(lambda: volumes.create(new, "alice", site.keys))
    assert outcome(engine, operation)[1] == ""
    return Volume.get_by_id(operation.resource_id)


def service(engine: Engine) -> VolumeService:
    return VolumeService(engine.agents, engine.keys, engine.templates)


def downloaded(engine: Engine, caller: Caller, context: Any = None, **fields: Any) -> list[pb.DownloadVolumeResponse]:
    request = pb.DownloadVolumeRequest(**{"volume": "data", **fields})
    context = cast("grpc.ServicerContext", context or Context(caller))
    return list(service(engine).DownloadVolume(request, context))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(OstlerError) as caught:
        call()
    return caught.value.reason


def content(site: Site, volume: Any) -> bytes:
    """What is in the volume's file, and in every copy of it."""
    return site.fleet.pools[volume.pool_id][volume.file_id].content.encode()


def exports_seen(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[File]:
    """The files that ReadVolume is asked for from now on."""
    seen: list[File] = []
    for fake in site.hosts.values():
        file_of = fake._file

        def spy(ref: Any, file_of: Any = file_of) -> File:
            file: File = file_of(ref)
            seen.append(file)
            return file

        monkeypatch.setattr(fake, "_file", spy)
    return seen


def test_an_encrypted_volume_leaves_under_the_callers_passphrase(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = new_volume(site, engine)
    seen = exports_seen(site, monkeypatch)
    answers = downloaded(engine, site.admin(), encryption=pb.ExportEncryption(passphrase=CHOSEN), format=RAW)
    data = b"".join(answer.data for answer in answers)
    assert content(site, volume) in data
    assert data.startswith(b"LUKS")
    first = next(answer for answer in answers if answer.data)
    assert first.file_size_bytes == len(data)
    assert answers[-1].sha256 == hashlib.sha256(data).hexdigest()
    assert (seen[-1].passphrase, seen[-1].format) == (CHOSEN, RAW)
    wait_until_idle()
    assert Passphrase.select().count() == 1, "the volume's own"
    assert not Event.select().where(Event.type == "volume.decrypted").exists()
    told = [event.outcome for event in Event.select().where(Event.type == "volume.download")]
    assert sorted(told) == ["started", "succeeded"]
    for path in site.state_dir.rglob("*"):
        assert not path.is_file() or CHOSEN not in path.read_bytes(), path


def test_a_decrypted_download_is_recorded_before_its_first_byte(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_volume(site, engine)
    caller = calls.user("alice", site.account)
    seen = exports_seen(site, monkeypatch)
    request = pb.DownloadVolumeRequest(volume="data", encryption=pb.ExportEncryption(decrypt=True))
    answers = service(engine).DownloadVolume(request, cast("grpc.ServicerContext", Context(caller)))
    next(answers)
    event: Any = Event.get(Event.type == "volume.decrypted")
    assert (event.actor, event.resource_name, event.account_id) == ("alice", "data", site.account.id)
    assert "unencrypted, for a download as qcow2" in event.message
    list(answers)
    assert seen[-1].passphrase == b""
    event.delete_instance()


def test_a_plain_volume_needs_no_choice_of_encryption(site: Site, engine: Engine) -> None:
    volume = new_volume(site, engine, kind="plain")
    data = b"".join(answer.data for answer in downloaded(engine, site.admin()))
    assert content(site, volume) in data
    assert data.startswith(b"QFI")
    how = pb.ExportEncryption(passphrase=CHOSEN)
    assert refused(lambda: downloaded(engine, site.admin(), encryption=how)) == "ENCRYPTION_CHOICE_NOT_NEEDED"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "ENCRYPTION_CHOICE_REQUIRED"),
        ({"encryption": pb.ExportEncryption(decrypt=True, passphrase=CHOSEN)}, "ENCRYPTION_AMBIGUOUS"),
        ({"encryption": pb.ExportEncryption(passphrase=b"short")}, "INVALID_PASSPHRASE"),
        ({"encryption": pb.ExportEncryption(passphrase=b"\xff" * 10)}, "INVALID_PASSPHRASE"),
        ({"encryption": pb.ExportEncryption(passphrase=b"two lines\nof text")}, "INVALID_PASSPHRASE"),
        ({"volume": ""}, "REQUIRED"),
        ({"volume": "none"}, "VOLUME_NOT_FOUND"),
        ({"snapshot": "none"}, "SNAPSHOT_NOT_FOUND"),
    ],
)
def test_what_is_refused_changes_nothing(site: Site, engine: Engine, fields: dict[str, Any], reason: str) -> None:
    new_volume(site, engine)
    before = Operation.select().count(), Event.select().count()
    assert refused(lambda: downloaded(engine, site.admin(), **fields)) == reason
    assert (Operation.select().count(), Event.select().count()) == before


def test_others_do_not_find_it(site: Site, engine: Engine) -> None:
    new_volume(site, engine)
    eve = calls.user("eve", Account.create(name="other"))
    assert refused(lambda: downloaded(engine, eve, encryption=pb.ExportEncryption(decrypt=True))) == "VOLUME_NOT_FOUND"


def test_a_snapshot_is_downloaded(site: Site, engine: Engine) -> None:
    volume = new_volume(site, engine)
    passphrase = site.keys.create(volume.id)
    snapshot = Snapshot.create(
        name="before", account=site.account, volume_id=volume.id, pool=volume.pool, passphrase=passphrase,
        state="ready", size_bytes=volume.size_bytes, encrypt_format="luks",
    )  # fmt: skip
    opens = site.keys.open(snapshot).reveal()
    site.fleet.pools[volume.pool_id][snapshot.id] = File(volume.size_bytes, 1, opens, content="as it was")
    answers = downloaded(
        engine, site.admin(), volume="", snapshot="before", encryption=pb.ExportEncryption(passphrase=CHOSEN)
    )
    assert b"as it was" in b"".join(answer.data for answer in answers)
    wait_until_idle()
    assert not Snapshot.get_by_id(snapshot.id).operation_id
    del site.fleet.pools[volume.pool_id][snapshot.id]
    snapshot.delete_instance()
    passphrase.delete_instance()


def test_the_disk_of_a_running_vm_is_copied_on_its_host(site: Site, engine: Engine) -> None:
    made = site.record(lambda: site.new_vm("web"))
    assert outcome(engine, made)[1] == ""
    vm: Any = Vm.get_by_id(made.resource_id)
    hold = threading.Event()
    fake = site.at(vm.host_id)
    fault = fake.fail("CopyVolume", Fault(hold=hold, only=lambda request: request.vm_id == vm.id))
    request = pb.DownloadVolumeRequest(volume="web-root", encryption=pb.ExportEncryption(passphrase=CHOSEN))
    answers = service(engine).DownloadVolume(request, cast("grpc.ServicerContext", Context(site.admin())))
    next(answers)
    assert fault.reached.wait(10)
    assert refused(lambda: site.record(lambda: vms.stop(vm, "alice"))) == "RESOURCE_BUSY"
    hold.set()
    while not next(answers).data:
        pass
    assert outcome(engine, site.record(lambda: vms.reboot(vm, "alice")))[1] == "", "once copied, the VM is free again"
    list(answers)


def test_a_failed_copy_is_reported(site: Site, engine: Engine) -> None:
    new_volume(site, engine)
    for before in (True, False):
        for fake in site.hosts.values():
            fake.fail("CopyVolume", Fault(FailedPreconditionError("no", "NO_WAY"), before=before))
        assert (
            refused(lambda: downloaded(engine, site.admin(), encryption=pb.ExportEncryption(decrypt=True))) == "NO_WAY"
        )
        wait_until_idle()
        assert len(site.fleet.files()) == 1


def test_a_caller_who_goes_away_leaves_nothing(site: Site, engine: Engine) -> None:
    new_volume(site, engine)
    hold = threading.Event()
    faults = [fake.fail("CopyVolume", Fault(hold=hold)) for fake in site.hosts.values()]
    request = pb.DownloadVolumeRequest(volume="data", encryption=pb.ExportEncryption(decrypt=True))
    context = Context(site.admin())
    answers = service(engine).DownloadVolume(request, cast("grpc.ServicerContext", context))
    next(answers)
    wait_until(lambda: any(fault.reached.is_set() for fault in faults))
    context.gone.set()
    assert [answer.data for answer in answers if answer.data] == []
    wait_until_idle()
    newest: Any = Operation.select().order_by(Operation.create_time.desc()).get()
    assert newest.state == "cancelled"
    for fake in site.hosts.values():
        fake.faults.clear()
    answers = service(engine).DownloadVolume(request, cast("grpc.ServicerContext", Context(site.admin())))
    while not next(answers).data:
        pass
    cast("Any", answers).close()  # in the middle of the data, as the server does
    wait_until_idle()
    assert len(site.fleet.files()) == 1


def test_a_download_is_cancelled_as_an_operation(site: Site, engine: Engine) -> None:
    new_volume(site, engine)
    request = pb.DownloadVolumeRequest(volume="data", encryption=pb.ExportEncryption(decrypt=True))
    answers = service(engine).DownloadVolume(request, cast("grpc.ServicerContext", Context(site.admin())))
    while not next(answers).data:
        pass
    newest: Any = Operation.select().order_by(Operation.create_time.desc()).get()
    engine.cancel(newest.id)
    assert outcome(engine, newest) == ("cancelled", "CANCELLED")
    assert refused(lambda: list(answers)) == "CANCELLED"


def test_after_a_crash_only_the_cleanup_is_done(site: Site, engine: Engine, tmp_path: Path) -> None:
    """Another process goes on with the operation, or this one after a restart: the passphrase is gone then."""
    volume = new_volume(site, engine)
    how = volumes.export_encryption.ExportEncryption(decrypt=True)
    with transfer(None) as lost:
        pass
    operation = site.record(lambda: volumes.download(volume, "raw", how, "alice", lost.operation_id))
    assert outcome(engine, operation)[0] == "cancelled"
    wait_until_idle()


def test_a_disk_on_a_device_is_exported_as_a_file(site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = new_volume(site, engine)
    asked: list[Any] = []
    for fake in site.hosts.values():
        monkeypatch.setattr(fake, "_copy", _noting(asked, fake._copy))
    Pool.update(type="powerflex").where(Pool.id == volume.pool_id).execute()
    downloaded(engine, site.admin(), encryption=pb.ExportEncryption(passphrase=CHOSEN))
    source, target = asked[0]
    assert (source.pool_id, target.pool_id) == (volume.pool_id, site.pools["local1"].id)
    for host in site.hosts.values():  # then there is nothing but the device
        host.fail("CopyVolume", Fault(FailedPreconditionError("no", "NO_WAY")))
    Pool.update(type="powerflex").execute()
    assert (
        refused(lambda: downloaded(engine, site.admin(), encryption=pb.ExportEncryption(passphrase=CHOSEN))) == "NO_WAY"
    )
    for name, row in site.pools.items():
        Pool.update(type="shared-mount-point" if name == "shared" else "local").where(Pool.id == row.id).execute()


def _noting(asked: list[Any], copy: Callable[..., Any]) -> Callable[..., Any]:
    def noting(source: Any, target: Any, size_bytes: int) -> Any:
        asked.append((source, target))
        return copy(source, target, size_bytes)

    return noting
