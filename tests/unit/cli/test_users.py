"""Users' papers: keys are made here and never leave."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from ostler.client import profile as profiles
from ostler.control.v1 import account_pb2, template_pb2
from ostler.types.v1 import vm_pb2, volume_pb2
from ostler_common import pki
from ostler_common.errors import AlreadyExistsError
from ostler_control.cli.main import root

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler

CREATE = ("user", "create", "ada", "--account", "research", "--directory")


def whoami(profile: Path) -> str:
    result = CliRunner().invoke(root, ["--profile", str(profile), "user", "whoami", "-o", "name"])
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def test_created_user_can_call_at_once(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    directory = tmp_path / "ada"
    result = ostler(*CREATE, str(directory))
    assert result.exit_code == 0, result.stderr
    assert whoami(directory / "profile.toml") == "ada"
    key = directory / "ada.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    [request] = control.asked
    assert isinstance(request, account_pb2.CreateUserRequest)
    assert request.csr_pem.startswith(b"-----BEGIN CERTIFICATE REQUEST")
    assert key.read_bytes() not in request.SerializeToString()


def test_refused_user_leaves_nothing(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    control.error = AlreadyExistsError("there is a user ada", "USER_EXISTS")
    assert ostler(*CREATE, str(tmp_path / "ada")).exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_not_touched(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    assert ostler(*CREATE, str(tmp_path)).exit_code == 2
    assert control.asked == []


def test_renewing_oneself_replaces_the_profile_s_pair(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    path = tmp_path / "ada" / "profile.toml"
    ostler(*CREATE, str(path.parent))
    old = profiles.load(path)
    certificate = old.certificate.read_bytes()
    result = CliRunner().invoke(root, ["--profile", str(path), "user", "renew"])
    assert result.exit_code == 0, result.stderr
    new = profiles.load(path)
    pki.check_pair(new.certificate.read_bytes(), new.key.read_bytes())
    assert new.certificate.read_bytes() != certificate
    assert not old.key.exists()
    assert stat.S_IMODE(new.key.stat().st_mode) == 0o600
    assert whoami(path) == "ada"


def test_renewal_that_dies_leaves_the_old_pair(
    control: Control, ostler: Ostler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ada" / "profile.toml"
    ostler(*CREATE, str(path.parent))
    write = pki.write_private

    def dying(target: Path, data: bytes) -> None:
        if target == path:
            raise OSError("power is gone")
        write(target, data)

    monkeypatch.setattr(pki, "write_private", dying)
    assert CliRunner().invoke(root, ["--profile", str(path), "user", "renew"]).exit_code != 0
    assert whoami(path) == "ada"


def test_template_upload(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"QFI\xfb" + bytes(range(256)) * 10_000)  # more than two messages
    result = ostler("template", "upload", "debian", str(image), "--firmware", "uefi")
    assert result.exit_code == 0, result.stderr
    assert control.uploaded == image.read_bytes()
    [header] = control.asked
    assert isinstance(header, template_pb2.UploadTemplateRequest.Header)
    assert header.file_size_bytes == image.stat().st_size
    assert header.sha256 in result.stdout
    assert (header.format, header.firmware) == (volume_pb2.DISK_FORMAT_QCOW2, vm_pb2.FIRMWARE_UEFI)
