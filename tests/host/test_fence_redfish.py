"""Debian's fence_redfish, as the control plane runs it, against a real Redfish service with two systems."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest
from ostler_common.errors import OstlerError
from ostler_common.secret import Secret
from ostler_control.ha import run_agent
from ostler_control.ha.fence_agents import Action, Device, Power

from tests.lab.host import wait_for

USER, PASSWORD = "ostler", "bmc-secret-of-the-test"
SYSTEMS = {name: f"00000000-0000-4000-8000-00000000000{number}" for number, name in enumerate(("first", "second"), 1)}


@dataclass
class Bmc:
    address: str

    def power(self, system: str) -> str:
        request = urllib.request.Request(f"https://{self.address}/redfish/v1/Systems/{SYSTEMS[system]}")
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}")
        with urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=5) as answer:
            return str(json.load(answer)["PowerState"])

    def device(self, system: str) -> Device:
        return Device("redfish", self.address, USER, {"plug": SYSTEMS[system], "insecure": "true"})


@pytest.fixture(scope="module")
def bmc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bmc]:
    directory = tmp_path_factory.mktemp("bmc")
    key, certificate, passwords, config = (directory / name for name in ("key.pem", "cert.pem", "htpasswd", "conf.py"))
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bmc"]
    subprocess.run(["openssl", "req", *options, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    passwords.write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    systems = [{"uuid": uuid, "name": name, "power_state": "On", "nics": []} for name, uuid in SYSTEMS.items()]
    config.write_text(
        f"SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\nSUSHY_EMULATOR_LISTEN_PORT = {port}\n"
        f"SUSHY_EMULATOR_FAKE_SYSTEMS = {systems!r}\nSUSHY_EMULATOR_AUTH_FILE = {str(passwords)!r}\n"
    )
    argv = [Path(sys.executable).parent / "sushy-emulator", "--config", config, "--fake"]
    argv += ["--ssl-certificate", certificate, "--ssl-key", key]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"HOME": str(directory), "PATH": "/usr/bin:/bin"},
        )
    found = Bmc(f"127.0.0.1:{port}")

    def answers() -> bool:
        try:
            return found.power("first") == "On"
        except OSError:
            return False

    try:
        wait_for(answers, "the BMC", 30, 0.2)
        yield found
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("system", "other"), [("first", "second"), ("second", "first")])
def test_the_named_system_is_switched_and_no_other(bmc: Bmc, system: str, other: str) -> None:
    device, password = bmc.device(system), Secret(PASSWORD.encode())
    assert run_agent.ask_power(device, password) is Power.ON
    run_agent.switch(device, password, Action.OFF)
    assert run_agent.ask_power(device, password) is Power.OFF
    assert (bmc.power(system), bmc.power(other)) == ("Off", "On")
    assert run_agent.ask_power(bmc.device(other), password) is Power.ON
    run_agent.switch(device, password, Action.ON)
    assert bmc.power(system) == "On"


def test_a_system_that_is_not_there_says_nothing(bmc: Bmc) -> None:
    device = Device("redfish", bmc.address, USER, {"plug": "no-such-system", "insecure": "true"})
    with pytest.raises(OstlerError) as caught:
        run_agent.ask_power(device, Secret(PASSWORD.encode()))
    assert caught.value.reason == "FENCE_FAILED"
    assert PASSWORD not in str(caught.value)
