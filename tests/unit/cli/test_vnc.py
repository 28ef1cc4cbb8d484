"""`ostler vm vnc`: a local socket for viewers of one's own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1 import vm_pb2
from ostler_common.errors import FailedPreconditionError
from ostler_control.cli import vnc

from tests.fakes.control import Control
from tests.unit.cli.conftest import PROGRAM

TIMEOUT_S = 60.0


@contextlib.contextmanager
def listening(environment: dict[str, str], *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that the command printed, and the command."""
    argv = [*PROGRAM, "vm", "vnc", "web-1", *options]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


def view(viewer: socket.socket) -> None:
    """Sends and receives until the screen ends."""
    viewer.settimeout(TIMEOUT_S)
    with viewer, viewer.makefile("rb") as received:
        assert received.read(12) == b"RFB 003.008\n"
        viewer.sendall(b"key")
        assert received.read(3) == b"key"
        viewer.sendall(b"bye")
        assert received.read() == b"bye"


def test_viewers_connect_to_loopback_one_after_the_other(control: Control, environment: dict[str, str]) -> None:
    with listening(environment, "--force") as (address, process):
        host, _, port = address.partition(":")
        assert host == "127.0.0.1"
        for _ in range(2):
            view(socket.create_connection((host, int(port)), TIMEOUT_S))
        with socket.create_connection((host, int(port)), TIMEOUT_S) as leaves:
            leaves.settimeout(TIMEOUT_S)
            assert leaves.recv(12) == b"RFB 003.008\n"
        view(socket.create_connection((host, int(port)), TIMEOUT_S))
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=TIMEOUT_S)
    assert f"vncviewer 127.0.0.1::{port}" in told
    joined = [asked for asked in control.asked if isinstance(asked, vm_pb2.ConsoleInput)]
    assert joined
    assert all(asked.force for asked in joined)


def test_a_unix_socket_is_its_users_own(control: Control, environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "web-1.vnc"
    with listening(environment, "--socket", str(path)) as (address, process):
        assert address == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        viewer = socket.socket(socket.AF_UNIX)
        viewer.connect(str(path))
        view(viewer)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_S)
    assert not path.exists()


def test_a_refusal_is_told_and_the_viewer_is_let_go(control: Control, environment: dict[str, str]) -> None:
    with listening(environment) as (address, process):
        control.error = FailedPreconditionError("it shows another its screen", "CONSOLE_BUSY")
        with socket.create_connection(("127.0.0.1", int(address.partition(":")[2])), TIMEOUT_S) as viewer:
            viewer.settimeout(TIMEOUT_S)
            assert viewer.recv(1) == b""
        assert process.stderr is not None
        told = ""
        while "the option --force takes it over" not in told:
            line = process.stderr.readline()
            assert line, told
            told += line
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_S)
    assert "Error: it shows another its screen [CONSOLE_BUSY]" in told


def test_a_path_that_exists_is_left_alone(control: Control, environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("mine")
    argv = [*PROGRAM, "vm", "vnc", "web-1", "--socket", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S)
    assert done.returncode == 6
    assert "it exists already (delete it) [SOCKET_UNAVAILABLE]" in done.stderr
    assert path.read_text() == "mine"


def connect_as_nobody(port: int) -> None:
    os.setuid(65534)
    with socket.create_connection((vnc.LOOPBACK, port), TIMEOUT_S) as viewer:
        viewer.recv(1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can connect as another user")
def test_the_port_is_for_its_user_only() -> None:
    with vnc.listen(0, None) as listener:
        port = listener.getsockname()[1]
        other = multiprocessing.get_context("fork").Process(target=connect_as_nobody, args=(port,))
        other.start()
        listener.settimeout(TIMEOUT_S)
        viewer, _ = listener.accept()
        assert not vnc.is_own(viewer)
        viewer.close()
        other.join(TIMEOUT_S)
        own = threading.Thread(target=lambda: socket.create_connection(("127.0.0.1", port), TIMEOUT_S).recv(1))
        own.start()
        viewer, _ = listener.accept()
        assert vnc.is_own(viewer)
        viewer.close()
        own.join()
