"""`ostler backup`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ostler.control.v1 import backup_pb2 as pb

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler


def asked(control: Control, kind: type[Any]) -> Any:
    [request] = control.asked
    assert isinstance(request, kind)
    return request


def test_a_store_is_added(control: Control, ostler: Ostler) -> None:
    assert ostler("backup", "store", "add", "vault", "--source", "nas:/b", "--zone", "z").exit_code == 0
    request = asked(control, pb.CreateBackupStoreRequest)
    assert (request.name, request.source, request.zone, request.WhichOneof("scope")) == ("vault", "nas:/b", "z", "zone")


@pytest.mark.parametrize(
    "wrong", [["--path", "/b"], ["--zone", "z"], ["--path", "/b", "--zone", "z", "--cluster", "c"]]
)
def test_a_store_has_a_place_and_hosts(control: Control, ostler: Ostler, wrong: list[str]) -> None:
    assert ostler("backup", "store", "add", "vault", *wrong).exit_code == 2
    assert control.asked == []


def test_one_is_taken(control: Control, ostler: Ostler) -> None:
    result = ostler("backup", "create", "web-1", "--name", "nightly", "--store", "vault", "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "op-1\n")
    request = asked(control, pb.CreateBackupRequest)
    assert (request.vm, request.name, request.store, len(request.request_id)) == ("web-1", "nightly", "vault", 36)


def test_they_are_listed_and_shown(control: Control, ostler: Ostler) -> None:
    lines = ostler("backup", "list", "--vm", "web-1").stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "VM", "DISKS", "STORED", "STORE", "VERIFIED"]
    assert lines[1].split()[:7] == ["nightly", "ready", "web-1", "1", "1", "GiB", "vault"]
    assert lines[1].split()[-1] == "never"
    assert asked(control, pb.ListBackupsRequest).vm == "web-1"
    assert "web-1-root" in ostler("backup", "show", "nightly").stdout


def test_a_new_vm_or_volume_is_restored_without_a_question(control: Control, ostler: Ostler) -> None:
    assert ostler("backup", "restore", "nightly", "--name", "again", "--keep-macs", "--no-wait").exit_code == 0
    request = asked(control, pb.RestoreVmRequest)
    assert (request.backup, request.name, request.keep_macs, request.without_nics) == ("nightly", "again", True, False)
    control.asked.clear()
    assert ostler("backup", "restore", "nightly", "--disk", "1", "--name", "data", "--no-wait").exit_code == 0
    of_disk = asked(control, pb.RestoreVolumeRequest)
    assert (of_disk.slot, of_disk.name) == (1, "data")


def test_restoring_over_a_vm_wants_to_be_confirmed(control: Control, ostler: Ostler) -> None:
    assert ostler("backup", "restore", "nightly", "--over", "--no-wait").exit_code == 2
    assert control.asked == []
    assert ostler("backup", "restore", "nightly", "--over", "--yes", "--no-wait").exit_code == 0
    assert asked(control, pb.RestoreVmOverRequest).backup == "nightly"


def test_a_backup_is_booted_to_test_it(control: Control, ostler: Ostler) -> None:
    wanted = ["--boot", "--timeout", "600", "--console-text", "Welcome"]
    assert ostler("backup", "verify", "nightly", *wanted, "--no-wait").exit_code == 0
    request = asked(control, pb.VerifyBackupRequest)
    assert (request.backup, request.boot, request.boot_timeout_s, request.console_text) == (
        "nightly", True, 600, "Welcome",
    )  # fmt: skip
    control.asked.clear()
    assert ostler("backup", "verify", "nightly", "--timeout", "600").exit_code == 2
    assert control.asked == []


def test_a_schedule_is_made(control: Control, ostler: Ostler) -> None:
    keep = ["--keep-daily", "7", "--keep-monthly", "12"]
    result = ostler("backup", "schedule", "create", "web-1", "--weekly", "--at", "sun 03:30", *keep)
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    assert "weekly, sun 03:30 UTC" in told
    assert "7 daily, 12 monthly" in told
    request = asked(control, pb.CreateBackupScheduleRequest)
    assert (request.vm, request.interval, request.minute, request.hour, request.day) == (
        "web-1", pb.BackupSchedule.WEEKLY, 30, 3, 7,
    )  # fmt: skip
    assert request.keep == pb.BackupRetention(daily=7, monthly=12)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--keep-last", "1"],
        ["--daily"],
        ["--daily", "--keep-last", "0"],
        ["--daily", "--keep-last", "1001"],
        ["--daily", "--at", "noon", "--keep-last", "1"],
    ],
)
def test_a_wrong_schedule_is_not_sent(control: Control, ostler: Ostler, wrong: list[str]) -> None:
    assert ostler("backup", "schedule", "create", "web-1", *wrong).exit_code == 2
    assert control.asked == []


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--over", "--name", "again"],
        ["--over", "--yes", "--pool", "p"],
        ["--over", "--yes", "--disk", "0"],
        ["--disk", "0", "--name", "d", "--keep-macs"],
    ],
)
def test_a_wrong_restore_is_not_sent(control: Control, ostler: Ostler, wrong: list[str]) -> None:
    assert ostler("backup", "restore", "nightly", *wrong).exit_code == 2
    assert control.asked == []


def test_files_in_a_backup_are_listed_and_cannot_steer_the_terminal(control: Control, ostler: Ostler) -> None:
    result = ostler("backup", "file", "list", "nightly")
    assert result.exit_code == 0
    assert "/dev/sda1" in result.stdout
    assert asked(control, pb.ReadBackupFilesRequest) == pb.ReadBackupFilesRequest(backup="nightly")
    listed = ostler("backup", "file", "list", "nightly", "/var", "--filesystem", "/dev/sda1")
    assert "the directory has more files" in listed.stderr
    for text in (result.stdout, listed.stdout, ostler("backup", "file", "list", "nightly", "/", "-o", "json").stdout):
        assert "\x1b" not in text
    assert "-rw-r-----" in listed.stdout
    assert "log/" in listed.stdout
    wanted = pb.ReadBackupFilesRequest(backup="nightly", path=b"/var", file_system="/dev/sda1")
    assert wanted in control.asked


def test_a_file_of_a_backup_is_written_to_the_named_file_only(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    control.stored, target = b"content of a file", tmp_path / "fstab"
    result = ostler("backup", "file", "download", "nightly", "/../../etc/\udcff", str(target))
    assert result.exit_code == 0, result.stderr
    assert target.read_bytes() == control.stored
    assert target.stat().st_mode & 0o777 == 0o600
    assert asked(control, pb.ReadBackupFilesRequest) == pb.ReadBackupFilesRequest(
        backup="nightly", path=b"/../../etc/\xff", content=True
    )
    assert ostler("backup", "file", "download", "nightly", "/etc/fstab", str(target)).exit_code != 0
    archive = ostler("backup", "file", "download", "nightly", "/etc/", str(target), "--force")
    assert "a tar archive" in archive.stdout
    control.sent = 5
    assert ostler("backup", "file", "download", "nightly", "/a", str(tmp_path / "cut")).exit_code != 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "cut"))] == []


S3 = ["--endpoint", "https://s3.example.org", "--bucket", "backups", "--zone", "berlin"]


def test_a_bucket_is_added_with_keys_from_a_file(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    keys, ca = tmp_path / "keys", tmp_path / "ca.pem"
    keys.write_text("[other]\nx = 1\n[default]\naws_access_key_id = AKID\naws_secret_access_key = a%b/c=\n")
    ca.write_text("a certificate")
    more = ["--prefix", "one", "--region", "eu", "--spool", "/srv/spool", "--ca-file", str(ca)]
    result = ostler("backup", "store", "add", "offsite", *S3, *more, "--credentials-file", str(keys))
    assert result.exit_code == 0, result.stderr
    request = asked(control, pb.CreateBackupStoreRequest)
    assert request.s3 == pb.S3Bucket(
        endpoint="https://s3.example.org", bucket="backups", prefix="one", region="eu", access_key="AKID",
        secret_key=b"a%b/c=", ca_pem=b"a certificate",
    )  # fmt: skip
    assert (request.path, request.zone, request.source) == ("/srv/spool", "berlin", "")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (S3, "add --credentials-file"),
        ([*S3[:2], "--zone", "berlin"], "--endpoint needs --bucket"),
        ([*S3, "--path", "/mnt"], "excludes --path"),
        (["--bucket", "b", "--path", "/mnt", "--zone", "berlin"], "need --endpoint"),
        (["--zone", "berlin"], "give --path, --source, or --endpoint"),
        ([*S3, "--credentials-file", "FILE"], "must have a section [default]"),
        ([*S3, "--credentials-file", "MISSING"], "cannot be read"),
    ],
)
def test_a_wrong_bucket_is_not_sent(
    control: Control, ostler: Ostler, tmp_path: Path, wrong: list[str], told: str
) -> None:
    (tmp_path / "FILE").write_text("AKID:very-secret")
    given = [str(tmp_path / word) if word in ("FILE", "MISSING") else word for word in wrong]
    result = ostler("backup", "store", "add", "offsite", *given)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert "very-secret" not in result.stderr
    assert control.asked == []


def test_the_access_key_of_a_store_is_changed(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    keys = tmp_path / "credentials"
    keys.write_text("[default]\naws_access_key_id = AKID2\naws_secret_access_key = very-secret\n")
    result = ostler("backup", "store", "set-key", "offsite", "--credentials-file", str(keys))
    assert result.exit_code == 0
    assert "very-secret" not in result.stdout + result.stderr
    request = asked(control, pb.SetBackupStoreKeyRequest)
    assert (request.store, request.access_key, request.secret_key) == ("offsite", "AKID2", b"very-secret")
    assert ostler("backup", "store", "set-key", "offsite").exit_code == 2


def test_a_store_of_unknown_size_has_dashes(control: Control, ostler: Ostler) -> None:
    vault = pb.BackupStore(name="vault", type="nfs", source="nas:/b", capacity_bytes=2 << 30, available_bytes=1 << 30)
    offsite = pb.BackupStore(name="offsite", type="s3", source="https://s3.example.org/backups")
    control.stores = [vault, offsite]
    rows = [line.split() for line in ostler("backup", "store", "list").stdout.splitlines()]
    assert [row[-4:] for row in rows if row[0] == "vault"] == [["1", "GiB", "2", "GiB"]]
    assert [row[-2:] for row in rows if row[0] == "offsite"] == [["-", "-"]]
