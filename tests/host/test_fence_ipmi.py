"""Debian's ipmitool, as the control plane runs it, against OpenIPMI's simulator of a BMC."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret
from ostler_control.ha import run_agent
from ostler_control.ha.fence_agents import Action, Device, Power

from tests.databases import free_port
from tests.lab.host import wait_for

USER, PASSWORD = "ostler", "bmc-test-secret"  # the simulator knows 16 bytes at most
_LAN = """
name "bmc"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_operator none md5
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{directory}/chassis"
  user 1 true "" "" user 10 none
  user 2 true "{user}" "{password}" operator 10 none md5
"""
_MACHINE = """
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
mc_enable 0x20
"""
# What the simulator calls for the chassis: "get power", or "set power 0".
_CHASSIS = """#!/bin/sh
cd ${0%/*}
[ ! -e asleep ] || sleep 2
case $1 in
  get) echo "$2:$(cat power)";;
  set) [ -e stuck ] || echo "$3" > power;;
esac
"""


class Bmc:
    """A BMC whose host's power is in a file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        (directory / "power").write_text("1")
        (directory / "state").mkdir()
        (directory / "machine").write_text(_MACHINE)
        lan = _LAN.format(port=self.port, directory=directory, user=USER, password=PASSWORD)
        (directory / "lan").write_text(lan)
        chassis = directory / "chassis"
        chassis.write_text(_CHASSIS)
        chassis.chmod(0o755)

    @property
    def power(self) -> str:
        return (self._directory / "power").read_text().strip()

    def device(self, cipher: str = "3", username: str = USER) -> Device:
        return Device("ipmi", f"127.0.0.1:{self.port}", username, {"cipher": cipher})

    def fault(self, name: str) -> None:
        (self._directory / name).touch()

    def run(self) -> subprocess.Popen[bytes]:
        files = ["-c", "lan", "-f", "machine", "-s", "state", "-n"]
        with (self._directory / "log").open("wb") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "ipmi_sim", *files],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def answers(self) -> bool:
        try:
            return run_agent.ask_power(self.device(), Secret(PASSWORD.encode())) is Power.ON
        except OstlerError:
            return False


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[Bmc]:
    found = Bmc(tmp_path)
    process = found.run()
    try:
        wait_for(found.answers, "the BMC", 20, 0.2)
        yield found
    finally:
        process.kill()
        process.wait()


def failure(device: Device, password: str = PASSWORD, action: Action = Action.STATUS) -> OstlerError:
    call = run_agent.ask_power if action is Action.STATUS else partial(run_agent.switch, action=action)
    with pytest.raises(OstlerError) as caught:
        call(device, Secret(password.encode()))
    return caught.value


def test_a_host_is_switched_off_and_on_and_twice_is_harmless(bmc: Bmc) -> None:
    password = Secret(PASSWORD.encode())
    for action, power, stored in ((Action.OFF, Power.OFF, "0"), (Action.ON, Power.ON, "1")):
        for _ in range(2):
            run_agent.switch(bmc.device(), password, action)
            assert run_agent.ask_power(bmc.device(), password) is power
            assert bmc.power == stored


def test_a_device_that_does_not_do_what_it_says_is_told(bmc: Bmc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_agent, "_SWITCH_S", 1.0)
    bmc.fault("stuck")
    told = failure(bmc.device(), action=Action.OFF)
    assert (told.reason, "its host is not off after 1 s" in told.message) == ("FENCE_FAILED", True)


def test_a_wrong_password_user_or_cipher_is_told(bmc: Bmc) -> None:
    for device, password in (
        (bmc.device(), "another"),
        (bmc.device(username="nobody"), PASSWORD),
        (bmc.device(cipher="17"), PASSWORD),  # the simulator does not know it
    ):
        told = failure(device, password)
        assert (told.reason, "establish IPMI v2" in told.message) == ("FENCE_FAILED", True)
        assert password not in told.message
    assert bmc.power == "1"


def test_the_password_is_neither_an_argument_nor_in_the_environment(bmc: Bmc) -> None:
    bmc.fault("asleep")
    asking = threading.Thread(target=run_agent.ask_power, args=(bmc.device(), Secret(PASSWORD.encode())))
    asking.start()
    seen: set[bytes] = set()
    while asking.is_alive():
        seen |= {said for said in map(_of_ipmitool, Path("/proc").glob("[0-9]*")) if said}
    asking.join()
    assert any(f"-p\0{bmc.port}\0".encode() in said for said in seen)
    assert not any(PASSWORD.encode() in said for said in seen)


def _of_ipmitool(process: Path) -> bytes:
    """Arguments and environment of an ipmitool; empty for other processes."""
    try:
        if os.readlink(process / "exe") != "/usr/bin/ipmitool":
            return b""
        return (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    except OSError:
        return b""
