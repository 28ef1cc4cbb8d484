"""Disks of a server are read through its sshd: whole, flat and decrypted, and nothing but what was asked for."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_agent.keyfile import KeyFile
from ostler_agent.spec import DiskFormat
from ostler_agent.tools.remote_disk import Layer, served
from ostler_agent.tools.ssh import SshServer, tunnel
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret

from tests.host.conftest import job, need

PASSPHRASE = Secret(b"of the source")


def sshd_program() -> str:
    return os.environ.get("OSTLER_TEST_SSHD") or shutil.which("sshd", path="/usr/sbin") or ""


SSHD: list[int] = []  # the id of the server's process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A stock sshd on this machine that lets one key in, for sftp and forwarding only."""
    need("ssh", "ssh-keygen", "nbdkit", "qemu-storage-daemon", "unshare")
    program = sshd_program()
    if not program or os.geteuid():
        pytest.skip("needs sshd and root")
    root = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    port = free_port()
    (root / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/user.pub\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nSubsystem sftp internal-sftp\n"
    )
    # sshd insists on a user of its own: this one exists for it alone.
    (root / "passwd").write_text(Path("/etc/passwd").read_text() + "sshd:x:199:65534::/run/sshd:/usr/sbin/nologin\n")
    start = 'mount --bind "$0" /etc/passwd && mkdir -p /run/sshd && exec "$1" -D -e -f "$2"'
    command: list[str | Path] = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        start,
        root / "passwd",
        program,
    ]
    child = subprocess.Popen([*command, root / "config"], stderr=subprocess.DEVNULL, start_new_session=True)
    SSHD[:] = [child.pid]
    name, public, _ = (root / "host.pub").read_text().split(maxsplit=2)
    try:
        wait_for_port(port)
        known = f"[127.0.0.1]:{port} {name} {public}\n".encode()
        yield SshServer("127.0.0.1", port, pwd.getpwuid(0).pw_name, Secret((root / "user").read_bytes()), known)
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("sshd did not start")


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


def read(server: SshServer, layers: list[Layer], place: Path) -> bytes:
    with served(server, layers, place, job()) as address:
        target = place / "copy"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", address, target], check=True)
        return target.read_bytes()


def test_a_chain_is_read_as_one_disk(server: SshServer, chain: Path, place: Path) -> None:
    layers = [Layer(f"{chain}/{name}.qcow2", DiskFormat.QCOW2) for name in ("top", "base")]
    before = {name: (chain / name).read_bytes() for name in ("top.qcow2", "base.qcow2")}
    assert read(server, layers, place) == b"\1" * (3 << 20) + b"\2" * (2 << 20) + b"\0" * (3 << 20)
    assert {name: (chain / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(("format", "options"), [("qcow2", "encrypt.format=luks,encrypt."), ("raw", "")])
def test_a_luks_disk_is_read_with_its_passphrase(
    server: SshServer, tmp_path: Path, place: Path, format: str, options: str
) -> None:
    plain, image = tmp_path / "plain", tmp_path / "image"
    plain.write_bytes(os.urandom(1 << 20))
    driver = "qcow2" if format == "qcow2" else "luks"
    with KeyFile(PASSPHRASE) as key:
        secret = [
            "--object",
            f"secret,id=s,file={key.path}",
            "-o",
            f"{options}key-secret=s,{options and 'encrypt.'}iter-time=10",
        ]
        command: list[str | Path] = ["qemu-img", "convert", "-f", "raw", "-O", driver, *secret, plain, image]
        subprocess.run(command, check=True, pass_fds=[key.fd])
    layer = Layer(str(image), DiskFormat(format), PASSPHRASE)
    assert read(server, [layer], place) == plain.read_bytes()


def test_a_cut_of_the_connection_in_mid_copy_is_overcome(server: SshServer, tmp_path: Path, place: Path) -> None:
    image, target = tmp_path / "image", place / "copy"
    image.write_bytes(os.urandom(1 << 20) * 128)
    with served(server, [Layer(str(image), DiskFormat.RAW)], place, job()) as address:
        copy = subprocess.Popen(["qemu-img", "convert", "-f", "raw", "-O", "raw", address, target])
        while not target.exists() or target.stat().st_blocks < 8 << 11:
            assert copy.poll() is None
            time.sleep(0.02)
        cut_connections()
        assert copy.poll() is None, "the cut came too late to tell anything"
        assert copy.wait(120) == 0
    assert target.read_bytes() == image.read_bytes()


def cut_connections() -> None:
    sessions = Path(f"/proc/{SSHD[0]}/task/{SSHD[0]}/children").read_text().split()
    assert sessions
    for session in sessions:
        os.kill(int(session), signal.SIGKILL)


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


def test_a_backing_file_that_only_the_header_names_is_not_opened(server: SshServer, chain: Path, place: Path) -> None:
    assert read(server, [Layer(f"{chain}/top.qcow2", DiskFormat.QCOW2)], place)[: 3 << 20] == b"\0" * (3 << 20)


def test_another_host_key_is_refused(server: SshServer, chain: Path, place: Path) -> None:
    other = place / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    key = other.with_suffix(".pub").read_text()
    stranger = replace(server, known_hosts=f"[127.0.0.1]:{server.port} {key}".encode())
    with pytest.raises(OstlerError) as caught:
        read(stranger, [Layer(f"{chain}/base.qcow2", DiskFormat.QCOW2)], place)
    assert caught.value.reason == "SSH_FAILED"
    with pytest.raises(OstlerError) as caught, tunnel(stranger, {place / "t.sock": "/run/nothing"}):
        pytest.fail("the tunnel opened")
    assert caught.value.reason == "HOST_KEY_MISMATCH"


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a\nb", "/" + "a" * 2000])
def test_a_path_is_absolute_and_plain(path: str) -> None:
    with pytest.raises(OstlerError) as caught:
        Layer(path, DiskFormat.RAW)
    assert caught.value.reason == "INVALID_PATH"
