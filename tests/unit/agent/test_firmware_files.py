"""The files of UEFI variables and TPMs: read, put in place, and never through what somebody left there."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest
from ostler_agent.hypervisors.libvirt.firmware_files import FirmwareFiles
from ostler_agent.spec import MAX_TPM_BYTES, FirmwareCopy, FirmwareState
from ostler_common.errors import FailedPreconditionError, ResourceExhaustedError

VM = "22222222-0000-4000-8000-000000000001"
STATE = FirmwareState(b"variables", b"sealed")


@pytest.fixture
def files(tmp_path: Path) -> FirmwareFiles:
    config = tmp_path / "qemu.conf"
    config.write_text(f'#swtpm_user = "nobody-at-all"\n  swtpm_user = "{getpass.getuser()}"\n')
    return FirmwareFiles(tmp_path / "libvirt", config)


def paths(files: FirmwareFiles) -> tuple[Path, Path]:
    return (files.root / "qemu" / "nvram" / f"{VM}_VARS.fd", files.root / "swtpm" / VM / "tpm2" / "tpm2-00.permall")


def test_a_copy_is_read_where_it_was_put(files: FirmwareFiles) -> None:
    assert files.read(VM) == FirmwareState()
    files.place(VM, FirmwareCopy("1", STATE))
    assert files.read(VM) == STATE
    for path in paths(files):
        assert path.stat().st_mode & 0o777 == 0o600
    assert paths(files)[1].parent.stat().st_mode & 0o777 == 0o700


def test_it_replaces_only_when_told_to_and_once(files: FirmwareFiles) -> None:
    files.place(VM, FirmwareCopy("1", STATE))
    files.place(VM, FirmwareCopy("2", FirmwareState(b"other", b"other")))
    assert files.read(VM) == STATE
    newer = FirmwareCopy("3", FirmwareState(b"newer", b"newer"), replace=True)
    files.place(VM, newer)
    assert files.read(VM) == newer.state
    tpm = paths(files)[1]
    tpm.write_bytes(b"what the guest did since")
    files.place(VM, newer)
    assert files.read(VM).tpm == b"what the guest did since"
    assert [path.name for path in tpm.parent.parent.iterdir() if path.name.startswith(".")] == []


def test_all_of_a_vm_is_deleted(files: FirmwareFiles) -> None:
    files.place(VM, FirmwareCopy("1", STATE))
    for _ in range(2):
        files.delete(VM)
        assert files.read(VM) == FirmwareState()
    assert list((files.root / "swtpm").iterdir()) == []


def test_nothing_is_followed(files: FirmwareFiles, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_bytes(b"root")
    variables, tpm = paths(files)
    for path in (variables, tpm):
        path.parent.mkdir(parents=True)
        path.symlink_to(secret)
    assert files.read(VM) == FirmwareState()
    files.place(VM, FirmwareCopy("1", STATE, replace=True))
    assert files.read(VM) == STATE
    assert secret.read_bytes() == b"root"


def test_what_blocks_or_is_too_large_is_not_read(files: FirmwareFiles) -> None:
    variables, tpm = paths(files)
    for path in (variables, tpm):
        path.parent.mkdir(parents=True)
    os.mkfifo(variables)
    tpm.write_bytes(bytes(MAX_TPM_BYTES + 1))
    with pytest.raises(ResourceExhaustedError) as refused:
        files.read(VM)
    assert refused.value.reason == "FIRMWARE_STATE_SIZE"
    tpm.write_bytes(bytes(MAX_TPM_BYTES))
    assert files.read(VM) == FirmwareState(b"", bytes(MAX_TPM_BYTES))


def test_a_host_without_the_user_of_swtpm_says_so(files: FirmwareFiles) -> None:
    files.config.write_text('swtpm_user = "nobody-at-all"\n')
    with pytest.raises(FailedPreconditionError) as refused:
        files.place(VM, FirmwareCopy("1", STATE))
    assert refused.value.reason == "TPM_MISSING"
