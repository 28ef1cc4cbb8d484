"""Bridges of VLANs: the commands that create them, with a kernel made of files, and how the agent asks for them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ostler_agent import process, vlan_bridges, vlan_requests
from ostler_agent.process import Result
from ostler_agent.spec import NicSpec
from ostler_common import bridges
from ostler_common.errors import FailedPreconditionError

NIC = NicSpec("52:54:00:00:00:01", "br0v100", vlan=100, trunk="br0")


class Kernel:
    """Carries out what `ip link` is told. Fails at the command with number `fails_at`."""

    def __init__(self, devices: Path) -> None:
        self.devices = devices
        self.commands: list[str] = []
        self.fails_at = -1

    def add(self, name: str, *, master: str = "", tap: bool = False) -> None:
        (self.devices / name).mkdir(parents=True)
        (self.devices / name / "ifindex").write_text(f"{len(list(self.devices.iterdir()))}\n")
        if tap:
            (self.devices / name / "tun_flags").touch()
        if master:
            self._join(name, master)

    def _join(self, name: str, master: str) -> None:
        (self.devices / master / "brif" / name).mkdir(parents=True)

    def run(self, argv: tuple[str, ...], **_: Any) -> Result:
        if len(self.commands) == self.fails_at:
            raise OSError("the agent dies here")
        words = list(argv[2:])
        self.commands.append(" ".join(words))
        match words:
            case ["add", "link", _, "name", name, *_]:
                self.add(name)
            case ["add", name, *_]:
                self.add(name)
            case ["set", name, "master", master]:
                self._join(name, master)
            case ["set", name, "up"]:
                (self.devices / name / "flags").write_text("0x1003\n")
        return Result(argv, 0, "", "")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(tmp_path / "devices")
    monkeypatch.setattr(process, "run", kernel.run)
    kernel.add("br0")
    kernel.add("eth0", master="br0")
    kernel.add("vnet0", master="br0", tap=True)
    return kernel


COMMANDS = [
    "add br0v100 type bridge",
    "set br0v100 addrgenmode none",
    "add link eth0 name v100i2 type vlan id 100",
    "set v100i2 master br0v100",
    "set v100i2 up",
    "set br0v100 up",
]


def test_a_vlan_gets_a_bridge_on_the_uplink_and_not_on_vms(kernel: Kernel) -> None:
    assert not vlan_bridges.is_up(NIC, kernel.devices)
    vlan_bridges.create(NIC, kernel.devices)
    assert kernel.commands == COMMANDS
    assert vlan_bridges.is_up(NIC, kernel.devices)
    kernel.commands.clear()
    vlan_bridges.create(NIC, kernel.devices)
    assert kernel.commands == ["set br0v100 addrgenmode none", "set v100i2 up", "set br0v100 up"]


@pytest.mark.parametrize("died_at", range(len(COMMANDS)))
def test_what_a_crash_left_half_done_is_completed(kernel: Kernel, died_at: int) -> None:
    kernel.fails_at = died_at
    with pytest.raises(OSError, match="dies here"):
        vlan_bridges.create(NIC, kernel.devices)
    kernel.fails_at = -1
    assert not vlan_bridges.is_up(NIC, kernel.devices)
    vlan_bridges.create(NIC, kernel.devices)
    assert (kernel.devices / "br0v100" / "brif" / "v100i2").is_dir()
    assert kernel.commands[-2:] == COMMANDS[-2:]
    assert COMMANDS[1] in kernel.commands, "the host would have an address in the VLAN"


def test_a_bridge_without_uplink_carries_no_vlan(kernel: Kernel) -> None:
    (kernel.devices / "br0" / "brif" / "eth0").rmdir()
    with pytest.raises(FailedPreconditionError) as error:
        vlan_bridges.create(NIC, kernel.devices)
    assert error.value.reason == "VLAN_UPLINK_MISSING"
    assert kernel.commands == []


def test_the_longest_names_are_names_of_devices() -> None:
    longest = "bridge-123456789"[: bridges.MAX_VLAN_TRUNK_NAME]
    assert len(bridges.bridge_of(longest, bridges.MAX_VLAN)) == bridges.MAX_BRIDGE_NAME


def test_the_agent_asks_and_the_unit_creates(kernel: Kernel, tmp_path: Path) -> None:
    requests = tmp_path / "run/requests"
    untagged = NicSpec("52:54:00:00:00:02", "br0")
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(vlan_requests.ensure, [NIC, untagged], kernel.devices, requests, 10)
        while not asking.done():
            if requests.exists():
                assert vlan_requests.serve(kernel.devices, requests) == 0
        asking.result()
    assert kernel.commands == COMMANDS
    assert list(requests.iterdir()) == []
    vlan_requests.ensure([NIC], kernel.devices, requests, 0)  # nobody serves, and nobody need
    assert list((tmp_path / "run").iterdir()) == [requests]


def test_a_host_without_the_unit_says_so(kernel: Kernel, tmp_path: Path) -> None:
    requests = tmp_path / "run/requests"
    with pytest.raises(FailedPreconditionError) as error:
        vlan_requests.ensure([NIC], kernel.devices, requests, 0.1)
    assert error.value.reason == "VLAN_BRIDGE_MISSING"
    assert "ostler-vlan-bridges.path" in error.value.message
    assert list(requests.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"trunk": "../br0", "vlan": 1}',
        '{"trunk": "br0", "vlan": 4095}',
        '{"trunk": "br0", "vlan": "1"}',
    ],
)
def test_a_request_that_the_agent_would_not_write_is_dropped(kernel: Kernel, tmp_path: Path, text: str) -> None:
    requests = tmp_path / "requests"
    requests.mkdir()
    (requests / "br0v1").write_text(text)
    assert vlan_requests.serve(kernel.devices, requests) == 1
    assert list(requests.iterdir()) == []
    assert kernel.commands == []
