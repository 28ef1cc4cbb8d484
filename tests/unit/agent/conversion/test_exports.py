"""Exports by ovftool, with a program in its place: what it is given, and what it leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_agent.conversion import Exports
from ostler_agent.conversion.ovf import read_manifest
from ostler_agent.jobs import JobContext
from ostler_agent.tools import ovftool
from ostler_common.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    OstlerError,
    UnavailableError,
)
from ostler_common.secret import Secret

from tests.unit.agent.conversion.conftest import Staged

PASSWORD = "s3cret&word"
SOURCE = ovftool.Source(
    "vc.example:8443", "import@vsphere.local", Secret(PASSWORD.encode()), ":".join(["AB"] * 20), "vm-42"
)
ASKS = """
case $1 in --version) echo "VMware ovftool 4.6.3 (build-1)"; exit;; esac
for target; do :; done
echo "Enter login information for source vi://vc.example/"; echo "Username: import"
read -r password || exit 1
"""
WRITES = """
echo "Writing OVF package: $target"; printf 'Disk progress: 1%%\\rDisk progress: 55%%\\r'
echo '<Envelope/>' >"$target"; echo disk >"${target%.ovf}-disk1.vmdk"
(cd "${target%/*}" && for f in vm.ovf vm-disk1.vmdk; do echo "SHA256($f)= $(sha256sum $f | cut -d' ' -f1)"; done >vm.mf)
"""
Install = Callable[[str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a shell script in ovftool's place. It records its arguments and environment; returns where."""

    def put(script: str) -> Path:
        directory, record = tmp_path / "bin", tmp_path / "seen"
        directory.mkdir(exist_ok=True)
        path = directory / "ovftool"
        path.write_text(f"#!/bin/sh\n{{ tr '\\0' ' ' </proc/$$/cmdline; env; }} >>{record}\n{script}")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:/usr/sbin:/usr/bin:/sbin:/bin")
        return record

    return put


def export(staged: Staged, job: JobContext | None = None, threads: int = 4, timeout_s: float = 60) -> None:
    Exports(staged.staging).export(job or JobContext("export"), staged.ref, SOURCE, threads, timeout_s)


def names(staged: Staged) -> set[str]:
    return {path.name for path in staged.directory.iterdir()}


def test_an_export(staged: Staged, install: Install, tmp_path: Path) -> None:
    seen = install(f'{ASKS} [ "$password" = "{PASSWORD}" ] || exit 1; {WRITES}')
    progress: list[int] = []
    export(staged, JobContext("export", changed=lambda update: progress.append(update.percent)))
    assert names(staged) == {"vm.ovf", "vm.mf", "vm-disk1.vmdk"}
    assert read_manifest(staged.directory / "vm.mf")["vm-disk1.vmdk"] == hashlib.sha256(b"disk\n").hexdigest()
    assert progress == [0, 55]
    record = seen.read_text()
    assert PASSWORD not in record
    assert "vi://import%40vsphere.local@vc.example:8443/?moref=vim.VirtualMachine:vm-42" in record
    assert f"--sourceSSLThumbprint={SOURCE.thumbprint}" in record
    assert "--parallelThreads=4" in record
    assert "noSSLVerify" not in record
    assert PASSWORD not in repr(SOURCE)


def test_a_directory_of_its_own_is_found(staged: Staged, install: Install) -> None:
    """As some versions of ovftool do."""
    install(f'{ASKS} mkdir "${{target%.ovf}}"; target="${{target%.ovf}}/vm.ovf"; {WRITES}')
    export(staged, threads=1)
    assert names(staged) == {"vm.ovf", "vm.mf", "vm-disk1.vmdk"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        # The real one asks again when the password is wrong, and reads on.
        (f"{ASKS} echo 'Enter login information for source'; read -r password || exit 1", "LOGIN_FAILED"),
        (f"{ASKS} echo 'Error: SSL fingerprint mismatch'; exit 1", "CERTIFICATE_MISMATCH"),
        (f"{ASKS} {WRITES} echo 'Error: Failed to open disk'; exit 1", "EXPORT_FAILED"),
        (f"{ASKS} {WRITES} echo 'No space left on device'; exit 1", "POOL_FULL"),
        (f"{ASKS} exit 0", "EXPORT_INCOMPLETE"),
        ("echo 'VMware ovftool 4.3.0 (build-1)'", "OVFTOOL_UNUSABLE"),
        ("echo what", "OVFTOOL_UNUSABLE"),
    ],
)
def test_a_failed_export_leaves_no_file(staged: Staged, install: Install, script: str, reason: str) -> None:
    install(script)
    with pytest.raises(OstlerError) as caught:
        export(staged)
    assert caught.value.reason == reason
    assert PASSWORD not in caught.value.message
    assert names(staged) == set()


def test_ovftool_is_not_installed(staged: Staged, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FailedPreconditionError) as caught:
        export(staged)
    assert caught.value.reason == "TOOL_MISSING"


def test_timeout_and_cancel(staged: Staged, install: Install) -> None:
    install(f"{ASKS} {WRITES} sleep 60")
    with pytest.raises(DeadlineExceededError) as caught:
        export(staged, timeout_s=1)
    assert caught.value.reason == "EXPORT_TIMEOUT"
    assert names(staged) == set()
    job = JobContext("export")
    job._changed = lambda update: job.cancel() if update.percent else None
    with pytest.raises(CancelledError):
        export(staged, job)
    assert names(staged) == set()


def test_an_export_that_the_agent_did_not_live_to_end(staged: Staged, install: Install) -> None:
    (staged.directory / ".export").mkdir()
    (staged.directory / ".export" / "vm.ovf").touch()
    with pytest.raises(UnavailableError) as caught:
        Exports(staged.staging).recover(staged.ref)
    assert caught.value.reason == "INTERRUPTED"
    assert names(staged) == set()


def test_a_second_export_into_one_directory_is_refused(staged: Staged, install: Install) -> None:
    install(f"{ASKS} {WRITES}")
    export(staged)
    with pytest.raises(FailedPreconditionError) as caught:
        export(staged)
    assert caught.value.reason == "STAGING_NOT_EMPTY"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("server", "vc.example/x"),
        ("server", "-x"),
        ("server", "user@vc.example"),
        ("username", ""),
        ("username", "a\nb"),
        ("password", Secret(b"a\nb")),
        ("password", Secret(b"")),
        ("thumbprint", "AB"),
        ("thumbprint", ""),
        ("moref", "vm-42&x"),
    ],
)
def test_what_could_mean_something_else_is_refused(staged: Staged, field: str, value: str | Secret) -> None:
    source = replace(SOURCE, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError) as caught:
        Exports(staged.staging).export(JobContext("export"), staged.ref, source, 1, 60)
    assert caught.value.reason == "INVALID_FIELD"
