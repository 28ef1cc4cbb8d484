"""Backups of a running, encrypted guest in a bucket, over TLS with a CA of its own: each is the disk of its moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1 import backup_pb2, vm_pb2
from ostler.types.v1 import volume_pb2 as volume_types

from tests.fakes import s3
from tests.fakes.s3 import S3
from tests.lab.console import Console
from tests.lab.fleet import CLUSTER, Fleet, fresh, refused
from tests.lab.opened import digest
from tests.lab.test_backups import DISK_MIB, delete, take

pytestmark = pytest.mark.lab
SPOOL = "/var/lib/ostler/spool"


@pytest.fixture
def bucket(fleet: Fleet, tmp_path: Path) -> Iterator[S3]:
    """A store `offsite` in a bucket that hosts and control plane reach."""
    with s3.serving(tmp_path, fleet.lab.network.gateway) as served:
        add(fleet, served, s3.SECRET_KEY)
        yield served
        fleet.api.backups.DeleteBackupStore(backup_pb2.DeleteBackupStoreRequest(store="offsite"))
        assert (served.objects, served.uploads) == ({}, {})


def add(fleet: Fleet, served: S3, secret_key: str) -> backup_pb2.BackupStore:
    where = backup_pb2.S3Bucket(
        endpoint=served.endpoint, bucket=s3.NAME, prefix="lab", region=s3.REGION, access_key=s3.ACCESS_KEY,
        secret_key=secret_key.encode(), ca_pem=served.ca_pem,
    )  # fmt: skip
    request = backup_pb2.CreateBackupStoreRequest(request_id=fresh(), name="offsite", cluster=CLUSTER, s3=where)
    return fleet.api.backups.CreateBackupStore(request)


def spooled(fleet: Fleet) -> list[Path]:
    return [path for host in fleet.lab.hosts for path in host.outside(SPOOL).glob("*/*")]


@pytest.mark.timeout(600)
def test_increments_in_a_bucket_are_the_guests_disk_bit_for_bit(fleet: Fleet, guest: str, bucket: S3) -> None:
    api = fleet.api.backups
    assert refused(add, fleet, bucket, "wrong").reason == "STORE_CREDENTIALS"
    fleet.do(fleet.create_volume("journal", "secret-data", DISK_MIB))
    fleet.do(fleet.attach("journal", guest))
    moments: list[str] = []

    def write_and_back_up(console: Console, at_mib: int) -> backup_pb2.BackupDisk:
        console.run(f"dd if=/dev/urandom of=/dev/vdb bs=1M count=3 seek={at_mib} conv=notrunc; sync; mark x", "MARKED")
        moments.append(console.run("sha256sum /dev/vdb", r"([0-9a-f]{64})  /dev")[1])
        return take(fleet, guest, f"daily-{len(moments)}").disks[1]

    with fleet.console(guest) as console:
        console.run("mark first-entry /dev/vdb", "MARKED")
        first, second = write_and_back_up(console, 1), write_and_back_up(console, 12)
    assert (first.parent_backup_name, second.parent_backup_name, second.full_reason) == ("", "daily-1", "")
    assert sorted(map(len, bucket.objects.values())) == sorted(
        disk.file_size_bytes
        for name in ("daily-1", "daily-2")
        for disk in api.GetBackup(backup_pb2.GetBackupRequest(backup=name)).disks
    )
    assert not any(b"first-entry" in data for data in bucket.objects.values())
    assert (spooled(fleet), bucket.uploads) == ([], {})
    fleet.do(api.VerifyBackup(backup_pb2.VerifyBackupRequest(request_id=fresh(), backup="daily-2")))
    for number, then in enumerate(moments, 1):
        request = backup_pb2.RestoreVolumeRequest(request_id=fresh(), backup=f"daily-{number}", slot=1, name="found")
        fleet.do(api.RestoreVolume(request))
        assert fleet.volume("found", read_file=True).file.encrypt_format == volume_types.ENCRYPT_FORMAT_LUKS
        assert digest(fleet, fleet.file("found")) == then
        fleet.do(fleet.delete_volume("found"))
    again = backup_pb2.RestoreVmRequest(request_id=fresh(), backup="daily-2", name="again", without_nics=True)
    fleet.do(api.RestoreVm(again))
    assert fleet.vm("again").state == vm_pb2.Vm.STOPPED
    assert spooled(fleet) == []
    fleet.do(fleet.start("again"))
    with fleet.console("again") as console:
        console.wait("tick 1", 90)
        assert console.run("sha256sum /dev/vdb", r"([0-9a-f]{64})  /dev")[1] == moments[1]
    fleet.delete_vm("again")
    fleet.do(fleet.delete_volume("again-data-1"))
    marker = backup_pb2.ReadBackupFilesRequest(backup="daily-2", path=b"/marker", content=True)
    assert b"".join(part.data for part in api.ReadBackupFiles(marker)).splitlines()[-2:] == [b"x", b"x"]
    assert spooled(fleet) == []
    for number in (2, 1):
        fleet.do(delete(fleet, f"daily-{number}"))
    fleet.do(fleet.detach("journal"))
    fleet.do(fleet.delete_volume("journal"))
