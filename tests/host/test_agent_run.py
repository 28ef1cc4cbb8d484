"""The agent as a process: joins, serves, keeps its certificate, stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ostler.agent.v1 import host_pb2, host_pb2_grpc
from ostler_agent.credentials import CredentialsStore
from ostler_common import channel
from ostler_common.identity import Identity, Kind

from tests.fakes.enrollment import Enrollment, enrollment

pytestmark = pytest.mark.host

HOST = "5b6c9a0c-0000-4000-8000-000000000001"
# Like a prepared host: libvirt's keys of running VMs are in memory, in a mount namespace of the agent's own.
IN_PREPARED_HOST = [
    "unshare",
    "--mount",
    "sh",
    "-ec",
    'mkdir -p /var/lib/libvirt/qemu; mount -t ramfs ramfs /var/lib/libvirt/qemu; exec "$@"',
    "sh",
]


@dataclass
class Machine:
    """What a host has of its own: directories, settings, and a place where systemd would listen."""

    root: Path
    control: Enrollment
    manager: socket.socket

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "NOTIFY_SOCKET": str(self.root / "notify"),
            "WATCHDOG_USEC": "2000000",
        }

    @property
    def config(self) -> Path:
        path = self.root / "agent.toml"
        path.write_text(
            f"""
            listen = "127.0.0.1:0"
            metrics_listen = ""
            state_dir = "{self.root}/state"
            stop_grace_s = 1
            [driver_options]
            uri = "test:///default"
            config_dir = "{self.root}"
            pki_dir = "{self.root}/pki"
            qemu_pki_dir = "{self.root}/qemu"
            """
        )
        return path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ostler_agent.main", *arguments, "--config", str(self.config)]

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def join(self) -> None:
        done = self.run("join", "--token", "-", stdin=self.control.token(HOST).encode() + "\n")
        assert done.returncode == 0, done.stderr

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [*IN_PREPARED_HOST, *self.command("run")],
            env=self.environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def wait_for_message(self, word: str) -> str:
        """Waits for a message to systemd that contains a word; returns the message."""
        while True:
            message = self.manager.recv(4096).decode()
            if word in message:
                return message


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "control").mkdir()
    (tmp_path / "bin").mkdir()
    with (
        enrollment(tmp_path / "control") as control,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.settimeout(60)
        manager.bind(str(tmp_path / "notify"))
        yield Machine(tmp_path, control, manager)


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr
    for line in process.stderr:
        if " serving " in line:
            return int(line.split("port=")[1].split()[0])
    raise AssertionError("the agent ended")


def test_agent_joins_serves_and_stops(machine: Machine) -> None:
    machine.join()
    control = machine.control.issuer.issue(Identity(Kind.CONTROL, "c2"))
    with machine.agent() as process:
        port = port_of(process)
        machine.wait_for_message("READY=1")
        machine.wait_for_message("WATCHDOG=1")
        with channel.open_channel(f"127.0.0.1:{port}", control, channel.host_server_name(HOST)) as opened:
            stub = host_pb2_grpc.HostServiceStub(opened)
            host = stub.GetHost(host_pb2.GetHostRequest())
            assert host.host_id == HOST
            assert host.capabilities.volume_encryption
            assert host.certificate_expire_time.ToDatetime() == (
                CredentialsStore(machine.root / "state").load().expire_time.replace(tzinfo=None)
            )
            watch = health_pb2_grpc.HealthStub(opened).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            process.send_signal(signal.SIGTERM)  # also with somebody watching
            machine.wait_for_message("STOPPING=1")
            assert process.wait(20) == 0


def test_broken_qemu_img_shows_in_the_capabilities(machine: Machine) -> None:
    (machine.root / "bin/qemu-img").write_text("#!/bin/sh\necho 'no LUKS in this build' >&2\nexit 1\n")
    (machine.root / "bin/qemu-img").chmod(0o755)
    done = machine.run("probe")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "volume-encryption.qemu-img" in line)
    assert line.startswith("NO")
    assert "no LUKS in this build" in line


def test_host_that_has_not_joined_says_how(machine: Machine) -> None:
    done = machine.run("run")
    assert done.returncode == 3
    assert "ostler host token" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_bad_settings_are_one_line(machine: Machine) -> None:
    done = subprocess.run(
        machine.command("run"),
        env={**machine.environment, "OSTLER_AGENT_LISTEN": "everywhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "ostler-agent: environment: listen: must be host:port, e.g. 10.0.0.5:8442 or [fd00::5]:8442"
    ]


def test_port_that_is_taken_ends_the_agent(machine: Machine) -> None:
    machine.join()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            machine.command("run"),
            env={**machine.environment, "OSTLER_AGENT_LISTEN": address},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"cannot listen on {address}" in done.stderr


def test_reload_keeps_serving(machine: Machine) -> None:
    machine.join()
    with machine.agent() as process:
        port_of(process)
        machine.wait_for_message("READY=1")
        process.send_signal(signal.SIGHUP)
        machine.wait_for_message("RELOADING=1")
        machine.wait_for_message("READY=1")
        assert process.poll() is None


def test_second_agent_on_the_same_state_is_refused(machine: Machine) -> None:
    machine.join()
    with machine.agent() as process:
        port_of(process)
        done = machine.run("run")
    assert done.returncode == 1
    assert "another agent uses" in done.stderr
