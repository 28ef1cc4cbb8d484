"""The lab itself: hosts are isolated, reach each other over TLS only with credentials, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_common.identity import Identity, Kind

from tests.lab.host import LOCAL, REPOSITORY, SHARED, environment, wait_for
from tests.lab.lab import Lab, install_client

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    with Lab.start(hosts=2) as lab:
        lab.trust_each_other()
        yield lab


def test_a_host_has_its_own_name_disks_and_processes(pair: Lab) -> None:
    first, second = pair.hosts
    assert first.run("hostname").strip() == "h1"
    first.run("touch", f"{SHARED}/seen-by-both", f"{LOCAL}/seen-by-one")
    assert second.run("ls", SHARED, LOCAL).split() == [f"{LOCAL}:", f"{SHARED}:", "seen-by-both"]
    first.start_daemon("dozer", ["sleep", "1000"])
    assert "sleep 1000" in first.run("ps", "ax")
    assert "sleep 1000" not in second.run("ps", "ax")
    first.stop_daemon("dozer", "KILL")
    assert not first.daemon_alive("dozer")


def test_a_hosts_certificate_opens_another_host_only_during_a_migration(pair: Lab) -> None:
    first, second = pair.hosts
    assert "libvirtd" not in second.run("ss", "-Hltnp")
    assert not first.reaches_libvirt(second)
    second.admit(str(uuid.uuid4()))  # a migration from a third host
    assert not first.reaches_libvirt(second)
    assert "no migration from it is under way" in (second.log("gateway") or "")
    vm_id = second.admit(first.host_uuid)
    assert first.reaches_libvirt(second)
    for kind in (Kind.CONTROL, Kind.QEMU):
        stolen = pair.ca.issue(Identity(kind, first.host_uuid), addresses=(first.address,))
        assert not first.reaches_libvirt(second, install_client(stolen, first, f"stolen-{kind}"))
    second.expel(vm_id)
    assert not first.reaches_libvirt(second)


def test_hosts_hear_each_other_while_both_have_the_same_guests_port(pair: Lab) -> None:
    for host in pair.hosts:
        host.run("ip", "tuntap", "add", "guest", "mode", "tap")
        host.run("ip", "link", "set", "guest", "address", "00:00:00:00:00:01", "master", "br0", "up")
        host.run("ip", "neighbour", "flush", "dev", "br0")
    first, second = pair.hosts
    first.run("bash", "-c", f"</dev/tcp/{second.address}/16514", timeout_s=10)
    for host in pair.hosts:
        host.run("ip", "link", "delete", "guest")


def test_a_host_that_is_cut_off_runs_on_unseen(pair: Lab) -> None:
    second = pair.hosts[1]
    second.cut()
    try:
        assert not reachable(second.address)
        assert second.daemon_alive("libvirtd")
    finally:
        second.mend()
    wait_for(lambda: reachable(second.address), "the network's return")


def reachable(address: str) -> bool:
    try:
        socket.create_connection((address, 16514), timeout=1).close()
    except OSError:
        return False
    return True


def test_nothing_is_left_of_a_killed_run(tmp_path: Path) -> None:
    script = """
from pathlib import Path
import sys, time
from tests.lab.lab import Lab
with Lab.start(hosts=1, directory=Path(sys.argv[1])) as lab:
    lab.hosts[0].start_daemon("dozer", ["sleep", "1000"])
    print(lab.hosts[0].pid, lab.network.bridge, flush=True)
    time.sleep(1000)
"""
    directory = tmp_path / "lab"
    argv = [sys.executable, "-c", script, str(directory)]
    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as run:
        assert run.stdout
        pid, bridge = run.stdout.readline().split()
        os.kill(run.pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "death of the host")
    with Lab.start(hosts=1):  # the next lab sweeps
        assert not directory.exists()
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert bridge not in links
