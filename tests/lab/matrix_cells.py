"""How each operation of the matrix is tried in a column.

A function prepares, yields the call that asks for the operation, is sent its answer once it is done, and verifies.
Where the matrix says that it is refused, it is left at the yield.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from google.longrunning import operations_pb2 as lro
from ostler.control.v1 import backup_pb2, event_pb2, snapshot_pb2, template_pb2, vm_pb2, volume_pb2
from ostler.types.v1 import vm_pb2 as vm_types
from ostler.types.v1 import volume_pb2 as volume_types
from ostler_agent.spec import Key
from ostler_control.state_dir import StateDir
from ostler_control.volumes.matrix import Operation

from tests.lab.fleet import fresh
from tests.lab.host import wait_for
from tests.lab.matrix_column import DATA_BYTES, NEXT, Ask, Column
from tests.lab.matrix_site import MIB, Content, is_encrypted

Cell = Iterator[Ask]


def create_from_template(c: Column) -> Cell:
    yield c.new_vm
    c.verify_vm()


def create(c: Column) -> Cell:
    c.need_vm()
    name = c.new_name("made")
    yield lambda: c.new_volume(name)
    c.verify_volume(name, bytes(DATA_BYTES))


def attach(c: Column) -> Cell:
    c.need_data(attached=False)
    yield lambda: c.fleet.attach(c.data, c.name)
    assert c.fleet.volume(c.data).vm_name == c.name
    c.verify_data()


def detach(c: Column) -> Cell:
    c.need_data()
    yield lambda: c.fleet.detach(c.data)
    assert not c.fleet.volume(c.data).vm_id
    if c.running:
        assert c.data_file().id not in c.site.disks(c.vm().host_name, c.vm().id)
    c.verify_data()


def grow(c: Column) -> Cell:
    c.need_data()
    size_mib = len(c.data_content.data) // MIB + 3
    yield lambda: c.fleet.grow(c.data, size_mib)
    c.data_content.data += bytes(size_mib * MIB - len(c.data_content.data))
    c.scribble()
    c.verify_data()


def delete(c: Column) -> Cell:
    if c.running:
        c.need_data()
        yield lambda: c.fleet.delete_volume(c.data)
        return
    if not c.spare:
        c.need_data(attached=False)
        c.spare.append(c.data)
    volume = c.fleet.volume(c.spare.pop())
    file = c.site.file_of(volume.name)
    path = c.site.path(file)
    yield lambda: c.fleet.delete_volume(volume.name)
    assert not path.exists()
    if file.key:
        assert not c.site.rows("SELECT 1 FROM passphrase WHERE id = ?", file.key.key_id)
        events = c.api.events.ListEvents(event_pb2.ListEventsRequest(type="volume.key.destroy", page_size=500)).events
        assert volume.id in [event.resource_id for event in events]


def snapshot(c: Column) -> Cell:
    c.need_data()
    c.scribble()
    yield c.new_snapshot
    [row] = c.site.rows("SELECT id, online, state FROM snapshot WHERE name = ?", c.snapshot)
    assert (bool(row["online"]), row["state"]) == (c.running, "ready")
    file = c.site.file(row["id"])
    c.verify_file(file, c.snapshot_content)
    _own_key(c, file.key)
    c.verify_data()


def revert(c: Column) -> Cell:
    c.need_snapshot()
    c.scribble()
    old = c.data_file()
    yield lambda: c.api.snapshots.RevertVolume(
        snapshot_pb2.RevertVolumeRequest(request_id=fresh(), snapshot=c.snapshot)
    )
    c.data_content.data[:] = c.snapshot_content
    _new_file(c, old.id, old.key)
    c.verify_data()


def from_snapshot(c: Column) -> Cell:
    c.need_snapshot()
    name = c.new_name("from-snapshot")
    yield lambda: c.api.volumes.CreateVolume(
        volume_pb2.CreateVolumeRequest(request_id=fresh(), name=name, snapshot=c.snapshot, pool=c.pool)
    )
    c.verify_volume(name, c.snapshot_content)


def backup(c: Column) -> Cell:
    """A full backup, and one that builds on it; each is the disk of its moment."""
    c.need_data()
    c.scribble()
    first, last = c.new_name("backup"), c.new_name("backup")
    moments = {first: bytes(c.data_content.data)}
    c.fleet.do(_back_up(c, first))
    c.scribble()
    moments[last] = bytes(c.data_content.data)
    yield lambda: _back_up(c, last)
    made = c.api.backups.GetBackup(backup_pb2.GetBackupRequest(backup=last))
    assert made.online == c.running
    assert [(disk.parent_backup_name, disk.full_reason) for disk in made.disks] == [(first, "")] * 2
    for name, content in moments.items():
        restored = c.new_name("restored")
        request = backup_pb2.RestoreVolumeRequest(
            request_id=fresh(), backup=name, slot=made.disks[1].slot, name=restored, pool=c.pool
        )
        c.fleet.do(c.api.backups.RestoreVolume(request))
        c.verify_volume(restored, content)
    for name in reversed(moments):
        c.fleet.do(c.api.backups.DeleteBackup(backup_pb2.DeleteBackupRequest(request_id=fresh(), backup=name)))
    c.verify_data()


def copy(c: Column) -> Cell:
    c.need_data()
    c.scribble()
    name = c.new_name("copy")
    yield lambda: _copy(c, name)
    c.verify_volume(name, bytes(c.data_content.data))
    c.verify_data()


def download(c: Column) -> Cell:
    """Encrypted content leaves a stopped VM under a passphrase, and a running one in clear."""
    c.need_data()
    c.scribble()
    passphrase = c.passphrase() if c.encrypted and not c.running else None
    content = bytes(c.data_content.data)
    request = volume_pb2.DownloadVolumeRequest(volume=c.data, encryption=c.encryption(passphrase))
    data: Any = yield lambda: _download(c, request)
    c.file = data, passphrase
    path = c.site.scratch / c.new_name("download")
    path.write_bytes(data)
    assert is_encrypted(path) == bool(passphrase)
    assert c.site.content(path, Key("", passphrase) if passphrase else None) == content
    path.unlink()
    c.verify_data()


def upload(c: Column) -> Cell:
    c.need_vm()
    if c.file is None:
        passphrase = c.passphrase() if c.encrypted and not c.running else None
        c.need_data()
        c.file = (
            _download(c, volume_pb2.DownloadVolumeRequest(volume=c.data, encryption=c.encryption(passphrase))),
            passphrase,
        )
    data, opened_by = c.file
    path = c.site.scratch / c.new_name("upload")
    path.write_bytes(data)
    content = c.site.content(path, Key("", opened_by) if opened_by else None)
    path.unlink()
    name = c.new_name("upload")
    header = volume_pb2.UploadVolumeRequest.Header(
        request_id=fresh(),
        name=name,
        disk_offering=c.offering,
        pool=c.pool,
        format=volume_types.DISK_FORMAT_QCOW2,
        passphrase=opened_by.reveal() if opened_by else b"",
        file_size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    parts = [volume_pb2.UploadVolumeRequest(header=header)]
    parts += [volume_pb2.UploadVolumeRequest(data=data[i : i + MIB]) for i in range(0, len(data), MIB)]
    yield lambda: c.api.volumes.UploadVolume(iter(parts))
    c.verify_volume(name, content)
    if opened_by:
        assert not c.site.opens(c.site.file_of(name), Key("", opened_by))


def template(c: Column) -> Cell:
    c.need_data()
    name, passphrase = c.new_name("template"), c.passphrase()
    content = bytes(c.data_content.data)
    request = template_pb2.CreateTemplateRequest(
        request_id=fresh(),
        name=name,
        volume=c.data,
        firmware=vm_types.FIRMWARE_BIOS,
        encryption=c.encryption(passphrase),
    )
    yield lambda: c.api.templates.CreateTemplate(request)
    made = c.api.templates.GetTemplate(template_pb2.GetTemplateRequest(template=name))
    assert made.encrypted == c.encrypted
    path = StateDir(c.fleet.lab.control.state_dir).templates / made.id
    assert is_encrypted(path) == c.encrypted
    assert c.site.content(path, Key("", passphrase) if c.encrypted else None) == content
    c.api.templates.DeleteTemplate(template_pb2.DeleteTemplateRequest(template=name))
    assert not path.exists()
    c.verify_data()


def limit(c: Column) -> Cell:
    """Far above what the disk does, so that the column's later cells are not slowed."""
    c.need_data()
    before, limits = c.data_file(), volume_types.IoLimits(iops=1_000_000)
    yield lambda: c.api.volumes.LimitVolume(
        volume_pb2.LimitVolumeRequest(request_id=fresh(), volume=c.data, limits=limits)
    )
    volume = c.fleet.volume(c.data)
    assert (volume.limits, volume.own_limits) == (limits, True)
    if c.running:
        assert c.site.iops_limit(c.vm().host_name, c.vm().id, before.id) == limits.iops
    assert c.data_file() == before
    c.verify_data()


def rekey(c: Column) -> Cell:
    yield from _rekey(c, deep=False)


def rekey_deep(c: Column) -> Cell:
    yield from _rekey(c, deep=True)


def encrypt(c: Column) -> Cell:
    """Of a plain column it is another disk of the VM that is encrypted."""
    c.need_data()
    if c.encrypted:
        yield lambda: _encrypt(c, c.data)
        return
    name = c.new_name("to-encrypt")
    content = Content(DATA_BYTES)
    c.fleet.do(c.new_volume(name))
    c.fleet.do(c.fleet.attach(name, c.name))
    c.scribble(name, content)
    yield lambda: _encrypt(c, name)
    if c.running:
        c.scribble(name, content)
        c.site.check_runs(c.vm().id, c.vm().host_name)
    c.verify_file(c.site.file_of(name), bytes(content.data), encrypted=True)
    c.fleet.do(c.fleet.detach(name))
    c.fleet.do(c.fleet.delete_volume(name))


def migrate(c: Column) -> Cell:
    c.need_data()
    c.scribble()
    old = c.data_file()
    pool = c.site.pool_of(NEXT[c.pool_type], c.host)
    yield lambda: c.api.volumes.MigrateVolume(
        volume_pb2.MigrateVolumeRequest(request_id=fresh(), volume=c.data, pool=pool)
    )
    assert c.fleet.volume(c.data).pool_name == pool
    _new_file(c, old.id, old.key)
    c.verify_data()
    c.fleet.do(c.fleet.detach(c.data))  # the column's next disk is of its own type again
    c.fleet.do(c.fleet.delete_volume(c.data))


def change_offering(c: Column) -> Cell:
    c.need_data()
    before = c.data_file()
    yield lambda: c.api.volumes.ChangeVolumeOffering(
        volume_pb2.ChangeVolumeOfferingRequest(volume=c.data, disk_offering=f"matrix-{c.service}")
    )
    assert c.fleet.volume(c.data).disk_offering_name == f"matrix-{c.service}"
    assert c.data_file() == before
    c.verify_data()


def reinstall(c: Column) -> Cell:
    c.need_vm()
    old = c.root_file()
    if not c.running:
        c.site.write(old, [Content(len(c.root_content.data)).write(0x33, 2 * MIB, 64 << 10)])
    yield lambda: c.api.vms.ReinstallVm(vm_pb2.ReinstallVmRequest(request_id=fresh(), vm=c.name))
    assert c.root_file().id != old.id
    if old.key:
        assert not c.site.opens(c.root_file(), old.key)
    c.verify_vm()


def start_vm(c: Column) -> Cell:
    c.need_vm()
    if not c.running:
        c.need_data()
    yield lambda: c.fleet.start(c.name)
    c.up = True
    try:
        c.verify_vm()
        c.verify_data()
    finally:
        c.up = False
        c.fleet.do(c.fleet.stop(c.name, force=True))
    c.host = c.site.rows("SELECT h.name FROM vm JOIN host h ON h.id = vm.last_host_id WHERE vm.name = ?", c.name)[0][0]


def migrate_vm(c: Column) -> Cell:
    yield from _migrate_vm(c, with_storage=False)


def migrate_vm_with_storage(c: Column) -> Cell:
    yield from _migrate_vm(c, with_storage=True)


def _rekey(c: Column, deep: bool) -> Cell:
    c.need_data()
    old = c.data_file()
    yield lambda: c.api.volumes.RekeyVolume(volume_pb2.RekeyVolumeRequest(request_id=fresh(), volume=c.data, deep=deep))
    if deep:
        _new_file(c, old.id, old.key)
    else:
        assert c.data_file().id == old.id
        _own_key(c, old.key)
    c.verify_data()


def _migrate_vm(c: Column, with_storage: bool) -> Cell:
    c.need_vm()
    if c.running:
        c.need_data()
    source = c.host
    target = next(host.name for host in c.fleet.lab.hosts if host.name != source)
    pool = c.site.pool_of(c.pool_type, target) if with_storage else ""
    yield lambda: c.fleet.migrate(c.name, target, with_storage, pool)
    c.verify_vm()
    assert c.host == target
    assert {c.fleet.volume(volume.volume_id).pool_name for volume in c.vm().volumes} == {c.pool}
    c.verify_data()
    wait_for(lambda: source not in c.site.secrets_for(c.vm().id), "the keys' end on the source")


def _back_up(c: Column, name: str) -> lro.Operation:
    return c.api.backups.CreateBackup(backup_pb2.CreateBackupRequest(request_id=fresh(), vm=c.name, name=name))


def _copy(c: Column, name: str) -> lro.Operation:
    request = volume_pb2.CopyVolumeRequest(request_id=fresh(), volume=c.data, name=name, pool=c.pool)
    return c.api.volumes.CopyVolume(request)


def _encrypt(c: Column, name: str) -> lro.Operation:
    return c.api.volumes.EncryptVolume(volume_pb2.EncryptVolumeRequest(request_id=fresh(), volume=name))


def _download(c: Column, request: volume_pb2.DownloadVolumeRequest) -> bytes:
    """The file, having checked it as the command line does."""
    parts = list(c.api.volumes.DownloadVolume(request))
    data = b"".join(part.data for part in parts)
    assert parts[-1].sha256 == hashlib.sha256(data).hexdigest()
    assert len(data) in {part.file_size_bytes for part in parts}
    return data


def _new_file(c: Column, old_id: str, old_key: Key | None) -> None:
    """The data volume has gone to another file, under another key; the old file's end is for `check_rest` to see."""
    assert c.data_file().id != old_id
    _own_key(c, old_key)


def _own_key(c: Column, other: Key | None) -> None:
    """Another key does not open the data volume."""
    assert c.encrypted == bool(other)
    if other:
        assert not c.site.opens(c.data_file(), other)


# In the order in which a column goes through them: what one makes serves the next.
CELLS: dict[Operation, Callable[[Column], Cell]] = {
    Operation.CREATE_FROM_TEMPLATE: create_from_template,
    Operation.CREATE: create,
    Operation.ATTACH: attach,
    Operation.SNAPSHOT: snapshot,
    Operation.REVERT: revert,
    Operation.BACKUP: backup,
    Operation.FROM_SNAPSHOT: from_snapshot,
    Operation.COPY: copy,
    Operation.DOWNLOAD: download,
    Operation.UPLOAD: upload,
    Operation.TEMPLATE: template,
    Operation.CHANGE_OFFERING: change_offering,
    Operation.LIMIT: limit,
    Operation.GROW: grow,
    Operation.REKEY: rekey,
    Operation.REKEY_DEEP: rekey_deep,
    Operation.ENCRYPT: encrypt,
    Operation.DELETE: delete,
    Operation.REINSTALL: reinstall,
    Operation.START_VM: start_vm,
    Operation.MIGRATE_VM: migrate_vm,
    Operation.MIGRATE_VM_WITH_STORAGE: migrate_vm_with_storage,
    Operation.DETACH: detach,
    Operation.MIGRATE: migrate,
}
