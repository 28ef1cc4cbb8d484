"""`ostler volume download` and `upload`: what is asked for, and what is on disk afterwards."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from ostler.control.v1 import volume_pb2 as pb
from ostler.types.v1 import volume_pb2 as types_pb2
from ostler_common.errors import FailedPreconditionError
from ostler_control.cli import passphrases
from ostler_control.cli.transfers import create_private

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler

PASSPHRASE = "a passphrase of mine"


def asked(control: Control) -> pb.DownloadVolumeRequest:
    request = control.asked[-1]
    assert isinstance(request, pb.DownloadVolumeRequest)
    return request


def test_a_download_is_written_once_it_is_whole(ostler: Ostler, control: Control, tmp_path: Path) -> None:
    words, file = tmp_path / "words", tmp_path / "data.qcow2"
    words.write_text(f"{PASSPHRASE}\nnot this\n")
    result = ostler("volume", "download", "data-1", str(file), "--passphrase-file", str(words))
    assert result.exit_code == 0, result.output
    assert file.read_bytes() == control.stored
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.qcow2", "words"]
    assert asked(control) == pb.DownloadVolumeRequest(
        volume="data-1",
        format=types_pb2.DISK_FORMAT_QCOW2,
        encryption=pb.ExportEncryption(passphrase=PASSPHRASE.encode()),
    )
    assert PASSPHRASE not in result.output


def test_what_is_there_stays_unless_forced(ostler: Ostler, control: Control, tmp_path: Path) -> None:
    file = tmp_path / "data.img"
    file.write_text("precious")
    arguments = ("volume", "download", "data-1", str(file), "--decrypt", "--format", "raw")
    refused = ostler(*arguments)
    assert (refused.exit_code, file.read_text()) == (6, "precious")
    assert "FILE_EXISTS" in refused.output
    assert control.asked == []
    assert ostler(*arguments, "--force").exit_code == 0
    assert file.read_bytes() == control.stored
    assert (asked(control).encryption.decrypt, asked(control).format) == (True, types_pb2.DISK_FORMAT_RAW)


def test_what_breaks_off_or_is_damaged_is_not_kept(ostler: Ostler, control: Control, tmp_path: Path) -> None:
    control.sent = 5
    result = ostler("volume", "download", "data-1", str(tmp_path / "data"), "--decrypt")
    assert result.exit_code == 1
    assert "DAMAGED" in result.output
    assert list(tmp_path.iterdir()) == []
    control.error = FailedPreconditionError("say how", "ENCRYPTION_CHOICE_REQUIRED")
    assert ostler("volume", "download", "data-1", str(tmp_path / "data"), "--decrypt").exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_there_to_type_a_passphrase(ostler: Ostler, control: Control, tmp_path: Path) -> None:
    result = ostler("volume", "download", "data-1", str(tmp_path / "data"))
    assert result.exit_code == 2
    assert "--passphrase-file or --decrypt" in result.output
    both = ostler("volume", "download", "data-1", str(tmp_path / "data"), "--decrypt", "--passphrase-file", "-")
    assert both.exit_code == 2
    assert control.asked == []


def test_an_upload_is_sent_with_what_opens_it(ostler: Ostler, control: Control, tmp_path: Path) -> None:
    words, file = tmp_path / "words", tmp_path / "disk"
    words.write_text(PASSPHRASE)
    file.write_bytes(b"QFI\xfb" + bytes(28) + b"\0\0\0\2" + bytes(3 << 20))
    arguments = ("volume", "upload", str(file), "data-2", "--offering", "secret", "--no-wait")
    assert ostler(*arguments).exit_code == 2, "it is encrypted, and nobody is there to type"
    result = ostler(*arguments, "--passphrase-file", str(words))
    assert result.exit_code == 0, result.output
    header = control.asked[-1]
    assert isinstance(header, pb.UploadVolumeRequest.Header)
    assert control.uploaded == file.read_bytes()
    assert header.sha256 == hashlib.sha256(control.uploaded).hexdigest()
    assert (header.name, header.disk_offering, header.file_size_bytes) == ("data-2", "secret", len(control.uploaded))
    assert (header.format, header.passphrase) == (types_pb2.DISK_FORMAT_QCOW2, PASSPHRASE.encode())


def test_a_passphrase_is_a_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from standard input\r\nmore")))
    assert passphrases.read(Path("-")).reveal() == b"from standard input"
    (tmp_path / "empty").write_text("\n")
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(Exception, match=path.name):
            passphrases.read(path)


def test_show_says_what_the_header_says_or_why_it_could_not_be_read(ostler: Ostler, control: Control) -> None:
    assert "encryption by its header: luks" in ostler("volume", "show", "data-1").output
    control.error = FailedPreconditionError("host h1 is silent", "HOST_SILENT")
    result = ostler("volume", "show", "data-1")
    assert result.exit_code == 0
    assert "could not be read: host h1 is silent" in result.output
    assert ostler("volume", "show", "data-1", "--read-file").exit_code != 0
    assert "silent" not in ostler("volume", "show", "data-1", "--no-read-file").output


def test_a_disk_is_not_written_to_a_file_that_somebody_else_has_open(tmp_path: Path) -> None:
    path = tmp_path / ".web.ova.7.part"
    path.write_bytes(b"left over")
    path.chmod(0o666)
    with path.open("rb") as stranger, create_private(path) as own:
        own.write(b"disk")
        own.flush()
        assert stranger.read() == b"left over"
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"disk", 0o600)
