"""Disks of a server are read through its sshd: whole, flat and decrypted, and nothing but what was asked for."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_agent.spec import DiskFormat, Key
from ostler_agent.tools import qemu_img
from ostler_agent.tools.nbd import NbdExport
from ostler_agent.tools.remote_disk import Layer, read_chain, served
from ostler_agent.tools.ssh import SshServer, lasting_tunnel, tunnel
from ostler_agent.tools.ssh_files import SshFiles
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret

from tests.host.conftest import job, need
from tests.host.remote_kvm import ssh_server
from tests.lab.host import wait_for
from tests.lab.lab import Lab, missing
from tests.lab.ssh import Sshd, program

PASSPHRASE = Secret(b"of the source")


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    """A stock sshd on a lab host, which sees the files of this machine."""
    need("ssh", "ssh-keygen", "nbdkit", "qemu-storage-daemon")
    if missing() or not program():
        pytest.skip(missing() or "sshd is not installed")
    with Lab.start(hosts=1) as lab:
        yield Sshd.start(lab.hosts[0])


@pytest.fixture
def server(sshd: Sshd) -> SshServer:
    return ssh_server(sshd)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A disk of 8 MiB: base.qcow2 below top.qcow2, which differ."""
    for command in (
        ["qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "8M"],
        ["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4M", "base.qcow2"],
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"],
        ["qemu-io", "-f", "qcow2", "-c", "write -P 2 3M 2M", "top.qcow2"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    return tmp_path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "private"
    made.mkdir(mode=0o700)
    return made


def uri(export: NbdExport) -> str:
    return f"nbd+unix:///{export.name}?socket={export.socket}"


def read(server: SshServer, layers: list[Layer], place: Path) -> bytes:
    with served(SshFiles(server), layers, place, job()) as export:
        target = place / "copy"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri(export), target], check=True)
        return target.read_bytes()


def test_a_chain_is_read_as_one_disk(server: SshServer, chain: Path, place: Path) -> None:
    layers = [Layer(f"{chain}/{name}.qcow2", DiskFormat.QCOW2) for name in ("top", "base")]
    before = {name: (chain / name).read_bytes() for name in ("top.qcow2", "base.qcow2")}
    assert read(server, layers, place) == b"\1" * (3 << 20) + b"\2" * (2 << 20) + b"\0" * (3 << 20)
    assert {name: (chain / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_luks_disk_is_read_with_its_passphrase(server: SshServer, tmp_path: Path, place: Path, format: str) -> None:
    plain, image = tmp_path / "plain", tmp_path / "image"
    plain.write_bytes(os.urandom(1 << 20))
    qemu_img.convert(plain, DiskFormat.RAW, image, DiskFormat(format), key=Key("of-the-source", PASSPHRASE))
    layer = Layer(str(image), DiskFormat(format), PASSPHRASE)
    assert read(server, [layer], place) == plain.read_bytes()


def test_a_cut_of_the_connection_in_mid_copy_is_overcome(
    sshd: Sshd, server: SshServer, tmp_path: Path, place: Path
) -> None:
    image, target = tmp_path / "image", place / "copy"
    image.write_bytes(os.urandom(1 << 20) * 128)
    with served(SshFiles(server), [Layer(str(image), DiskFormat.RAW)], place, job()) as export:
        copy = subprocess.Popen(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri(export), target])
        while not target.exists() or target.stat().st_blocks < 8 << 11:
            assert copy.poll() is None
            time.sleep(0.02)
        sshd.cut_connections()
        assert copy.poll() is None, "the cut came too late to tell anything"
        assert copy.wait(120) == 0
    assert target.read_bytes() == image.read_bytes()


def test_a_tunnel_reaches_a_socket_of_the_server(server: SshServer, tmp_path: Path, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "remote"))
        listener.listen()
        with tunnel(server, {place / "local": str(tmp_path / "remote")}):
            client.settimeout(10)
            client.connect(str(place / "local"))
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"hello")
                assert client.recv(5) == b"hello"


def test_an_image_with_a_data_file_is_refused(server: SshServer, tmp_path: Path, place: Path) -> None:
    image = tmp_path / "image"
    options = f"data_file={tmp_path}/outside,data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "1M"], check=True)
    with pytest.raises(OstlerError) as caught:
        read(server, [Layer(str(image), DiskFormat.QCOW2)], place)
    assert caught.value.reason == "DATA_FILE_REFUSED"


def test_an_image_that_only_a_header_names_is_not_opened(server: SshServer, chain: Path, place: Path) -> None:
    top, base = (Layer(f"{chain}/{name}.qcow2", DiskFormat.QCOW2) for name in ("top", "base"))
    for layers in ([top], [top, replace(base, path=f"{chain}/other.qcow2")], [base, base]):
        with pytest.raises(OstlerError) as caught:
            read(server, layers, place)
        assert caught.value.reason == "SOURCE_CHANGED"
        for left in place.iterdir():
            left.unlink()


def test_a_file_that_the_user_may_not_read_is_told_from_one_that_is_not_there(server: SshServer, place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kvm.", dir="/var/tmp") as name:  # not below a directory of root's alone
        Path(name).chmod(0o755)
        Path(name, "image").touch(0o600)
        for username, file, reason, message in (
            ("nobody", "image", "DISK_UNREADABLE", "may not be read by nobody"),
            ("root", "absent", "DISK_UNREADABLE", "is not on"),
            ("mallory", "image", "LOGIN_FAILED", "refuses the user name"),
        ):
            with pytest.raises(OstlerError, match=message) as caught:
                read(replace(server, username=username), [Layer(f"{name}/{file}", DiskFormat.RAW)], place)
            assert caught.value.reason == reason
            for left in place.iterdir():
                left.unlink()


def test_the_images_of_a_disk_are_found(server: SshServer, chain: Path, place: Path) -> None:
    found = read_chain(SshFiles(server), f"{chain}/top.qcow2", DiskFormat.QCOW2, place, job())
    assert [(image.path, image.format, image.encrypted) for image in found] == [
        (f"{chain}/{name}.qcow2", "qcow2", False) for name in ("top", "base")
    ]


def test_a_tunnel_opens_again_when_it_is_cut(sshd: Sshd, server: SshServer, tmp_path: Path, place: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX) as listener,
        lasting_tunnel(server, {place / "local": str(tmp_path / "remote")}, job()),
    ):
        listener.bind(str(tmp_path / "remote"))
        listener.listen()
        assert answers(listener, place / "local")
        sshd.cut_connections()
        wait_for(lambda: answers(listener, place / "local"), "the tunnel again")


def answers(listener: socket.socket, path: Path) -> bool:
    listener.settimeout(2)
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
            peer, _ = listener.accept()
        except OSError:
            return False
        peer.close()
        return True


def test_another_host_key_is_refused(server: SshServer, chain: Path, place: Path) -> None:
    other = place / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    key = other.with_suffix(".pub").read_text()
    stranger = replace(server, known_hosts=f"{server.host} {key}".encode())
    with pytest.raises(OstlerError) as caught:
        read(stranger, [Layer(f"{chain}/base.qcow2", DiskFormat.QCOW2)], place)
    assert caught.value.reason == "HOST_KEY_MISMATCH"
    with pytest.raises(OstlerError) as caught, tunnel(stranger, {place / "t.sock": "/run/nothing"}):
        pytest.fail("the tunnel opened")
    assert caught.value.reason == "HOST_KEY_MISMATCH"


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a\nb", "/" + "a" * 2000])
def test_a_path_is_absolute_and_plain(path: str) -> None:
    with pytest.raises(OstlerError) as caught:
        Layer(path, DiskFormat.RAW)
    assert caught.value.reason == "INVALID_PATH"
