"""Copies from a KVM host that is silent or cut off: with a program in the place of ssh."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_agent.conversion import RemoteCopies, RemoteVms, remote_copies, remote_vms
from ostler_agent.conversion.remote_copies import RemoteDiskCopy, RemoteVmCopy
from ostler_agent.jobs import JobContext
from ostler_agent.spec import DiskFormat, VolumeRef
from ostler_agent.tools import ssh
from ostler_agent.tools.remote_disk import Layer
from ostler_agent.tools.ssh import SshServer, lasting_tunnel
from ostler_agent.volumes.locks import VolumeLocks
from ostler_common.errors import AbortedError, DeadlineExceededError, OstlerError, UnavailableError
from ostler_common.secret import Secret

from tests.unit.agent.conversion.conftest import Staged

SERVER = SshServer("old1.example", 22, "root", Secret(b"a private key"), b"old1.example ssh-ed25519 AAAA\n")
# Listens on each socket that it is to forward, and never answers.
SILENT = f"""#!{sys.executable}
import signal, socket, sys
listeners = []
for flag, value in zip(sys.argv, sys.argv[1:]):
    if flag == "-L":
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(value.split(":")[0])
        listeners[-1].listen()
signal.pause()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="kvm.", dir="/var/tmp") as name:
        yield Path(name)


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that lets everybody in and whose libvirt never answers."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SILENT)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def source(staged: Staged, *, running: bool) -> RemoteVmCopy:
    volume = VolumeRef(staged.ref.pool_id, str(uuid.uuid4()), DiskFormat.QCOW2)
    disk = RemoteDiskCopy("vda", (Layer("/images/web.qcow2", DiskFormat.QCOW2),), volume, 1 << 20)
    return RemoteVmCopy(str(uuid.uuid4()), str(uuid.uuid4()), running, (disk,))


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(("running", "reason"), [(False, "CHECK_TIMEOUT"), (True, "BACKUP_TIMEOUT")])
def test_a_libvirt_that_never_answers_ends_the_copy(
    staged: Staged, place: Path, monkeypatch: pytest.MonkeyPatch, running: bool, reason: str
) -> None:
    monkeypatch.setattr(remote_copies, "_LIBVIRT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(remote_vms, "_END_TIMEOUT_S", 0.5)
    copies = RemoteCopies(staged.pools, VolumeLocks(), RemoteVms(place))
    with pytest.raises(DeadlineExceededError) as caught:
        copies.copy(JobContext("copy"), SERVER, source(staged, running=running), 60)
    assert caught.value.reason == reason
    assert list(place.iterdir()) == []


def asked(monkeypatch: pytest.MonkeyPatch, answers: list[bool | OstlerError]) -> None:
    """Has libvirt of the source answer whether the VM is off; an error is that of its connection."""

    class Libvirt:
        def is_off(self, vm_id: str) -> bool:
            answer = answers.pop(0)
            if isinstance(answer, OstlerError):
                raise answer
            return answer

    monkeypatch.setattr(remote_copies, "libvirt_of", lambda *_: contextlib.nullcontext(Libvirt()))
    monkeypatch.setattr(remote_copies, "_LAST_CHECK_PAUSE_S", 0.01)


CUT = UnavailableError("the connection was cut", "SSH_FAILED")
SLOW = DeadlineExceededError("ssh did not start within 30 s", "COMMAND_TIMEOUT")


def open_and_close(staged: Staged, place: Path) -> None:
    """Opens the disks of a VM that is off and has done with them at once."""
    copies = RemoteCopies(staged.pools, VolumeLocks(), RemoteVms(place))
    with copies._opened(JobContext("copy"), SERVER, source(staged, running=False), place):
        pass


def test_the_last_check_waits_for_a_connection_that_is_cut(
    staged: Staged, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bool | OstlerError] = [True, CUT, SLOW, True]
    asked(monkeypatch, answers)
    open_and_close(staged, place)
    assert answers == []
    asked(monkeypatch, [True, CUT, False])
    with pytest.raises(AbortedError) as caught:
        open_and_close(staged, place)
    assert caught.value.reason == "SOURCE_CHANGED"


def test_the_last_check_does_not_wait_for_ever(staged: Staged, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch, [True, *[CUT] * 1000])
    monkeypatch.setattr(remote_copies, "_LAST_CHECK_TIMEOUT_S", 0.2)
    with pytest.raises(DeadlineExceededError) as caught:
        open_and_close(staged, place)
    assert caught.value.reason == "CHECK_TIMEOUT"


def test_the_first_check_fails_at_once(staged: Staged, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch, [CUT])
    with pytest.raises(UnavailableError):
        open_and_close(staged, place)


def test_a_lasting_tunnel_that_cannot_begin_tells_why(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_files(*_: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(ssh, "tunnel", out_of_files)
    with (
        pytest.raises(OSError, match="too many open files"),
        lasting_tunnel(SERVER, {place / "t.sock": "/run/nothing"}, JobContext("copy")),
    ):
        pytest.fail("it never began")
