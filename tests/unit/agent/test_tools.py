import os
from pathlib import Path

import pytest
from ostler_agent.keyfile import KeyFile
from ostler_agent.process import run
from ostler_agent.spec import DiskFormat, Key, Provisioning
from ostler_agent.tools import qemu_img
from ostler_agent.tools.cryptsetup import LuksHeader, parse_luks_dump
from ostler_common.errors import FailedPreconditionError, OstlerError, ResourceExhaustedError
from ostler_common.secret import Secret

KEY = Key("k", Secret(b"a passphrase with a comma, and more"))


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A qemu-img that writes its arguments, one a line, to the file returned, and the secret it is given to `key`."""
    return fake_qemu_img(tmp_path, monkeypatch, "")


def fake_qemu_img(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> Path:
    program = tmp_path / "bin" / "qemu-img"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/args\n'
        f"for a; do case $a in secret,*file=*) cat ${{a##*file=}} > {tmp_path}/key;; esac; done\n{ending}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "args"


def test_a_key_comes_by_an_unnamed_file_and_never_as_an_argument(arguments: Path) -> None:
    qemu_img.create(Path("/p/v"), DiskFormat.QCOW2, 4096, key=KEY)
    assert (arguments.parent / "key").read_bytes() == b"a passphrase with a comma, and more"
    words = arguments.read_text()
    assert "passphrase" not in words
    assert "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10\n" in words
    assert words.startswith("create\n-q\n-f\nqcow2\n")
    assert words.endswith("/p/v\n4096\n")


def test_raw_with_a_key_is_a_luks_container(arguments: Path) -> None:
    qemu_img.create(Path("/p/v"), DiskFormat.RAW, 4096, key=KEY, provisioning=Provisioning.THICK)
    assert "-f\nluks\n" in arguments.read_text()
    assert "\nkey-secret=key,iter-time=10,preallocation=falloc\n" in arguments.read_text()


def test_commas_in_a_path_are_doubled_and_the_driver_is_named(arguments: Path) -> None:
    qemu_img.resize(Path("/p,driver=nbd/v"), DiskFormat.RAW, 8192)
    assert "\ndriver=raw,file.driver=file,file.filename=/p,,driver=nbd/v\n8192\n" in arguments.read_text()


def test_a_failed_speed_measurement_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = (
        f'[ -e {tmp_path}/again ] || {{ touch {tmp_path}/again; echo "Unable to get accurate CPU usage" >&2; exit 1; }}'
    )
    seen = fake_qemu_img(tmp_path, monkeypatch, once)
    qemu_img.create(Path("/p/v"), DiskFormat.RAW, 4096, key=KEY)
    assert seen.read_text().count("create") == 2


@pytest.mark.parametrize(
    ("stderr", "kind", "reason"),
    [
        ("qemu-img: /p/v: error while writing: No space left on device", ResourceExhaustedError, "POOL_FULL"),
        ("Could not open: Invalid password, cannot unlock any keyslot", FailedPreconditionError, "WRONG_KEY"),
        ('Failed to get "write" lock', FailedPreconditionError, "VOLUME_IN_USE"),
        ("Image is not in qcow2 format", FailedPreconditionError, "NOT_AN_IMAGE"),
    ],
)
def test_failures_have_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, kind: type[OstlerError], reason: str
) -> None:
    fake_qemu_img(tmp_path, monkeypatch, f"echo '{stderr}' >&2; exit 1")
    with pytest.raises(kind) as caught:
        qemu_img.resize(Path("/p/v"), DiskFormat.QCOW2, 8192, key=KEY)
    assert caught.value.reason == reason


def test_percentages_are_read_however_the_output_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu_img(tmp_path, monkeypatch, "printf '    (0.00/1'; sleep 0.1; printf '00%%)\\r    (50.25/100%%)\\r'")
    seen: list[float] = []
    qemu_img.convert(Path("/t"), DiskFormat.RAW, Path("/p/v"), DiskFormat.RAW, progress=seen.append)
    assert seen[-1] == 50.25


def test_a_key_file_is_gone_with_its_block() -> None:
    with KeyFile(Secret(b"quiet")) as key:
        descriptor = key.fd
        assert run(["cat", key.path], pass_fds=[key.fd]).stdout == "quiet"
        assert run(["cat", key.path], check=False).exit_code != 0
        with pytest.raises(PermissionError):
            os.write(key.fd, b"more")
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_luks_dump() -> None:
    text = (
        "LUKS header information for /x\n\nVersion:       \t1\nCipher name:   \taes\nCipher mode:   \txts-plain64\n"
        "UUID:          \tbd82\n\nKey Slot 0: ENABLED\n\tIterations:         \t1000\nKey Slot 1: DISABLED\n"
    )
    assert parse_luks_dump(text) == LuksHeader(1, "aes-xts-plain64", "bd82", 1)
