"""A BMC in the lab: sushy-emulator speaks Redfish, and the lab's host follows the power state that it keeps."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import bcrypt

from tests.lab.host import Host, environment, wait_for

PORT = 8555
USER, PASSWORD = "ostler", "bmc-secret-of-the-lab"
_CONFIG = """\
SUSHY_EMULATOR_LISTEN_IP = {address!r}
SUSHY_EMULATOR_LISTEN_PORT = {port}
SUSHY_EMULATOR_FAKE_SYSTEMS = {systems!r}
SUSHY_EMULATOR_AUTH_FILE = {passwords!r}
"""


class Bmc:
    """The BMC of one host, on the lab's bridge. Use it as a context manager.

    When it is told to switch the host off, the host's power is cut at once: every process of it dies.
    """

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.address = f"{host.network.gateway}:{PORT}"
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="bmc", daemon=True)
        # The emulator's certificate is its own authority, which nobody here knows.
        self._tls = ssl._create_unverified_context()
        self.cut_at = 0.0

    def __enter__(self) -> Bmc:
        self._directory.mkdir()
        key, certificate, passwords, config = (
            self._directory / name for name in ("key.pem", "certificate.pem", "htpasswd", "emulator.py")
        )
        options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bmc"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(["openssl", "req", *options, *files], check=True, capture_output=True)
        passwords.write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
        system = {"uuid": self.host.host_uuid, "name": self.host.name, "power_state": "On", "nics": []}
        values = {"address": self.host.network.gateway, "port": PORT, "systems": [system], "passwords": str(passwords)}
        config.write_text(_CONFIG.format(**values))
        program = str(Path(sys.executable).parent / "sushy-emulator")
        options = ["--config", str(config), "--fake", "--ssl-certificate", str(certificate), "--ssl-key", str(key)]
        with open(self._directory / "log", "wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment({"HOME": str(self._directory)}),
            )
        wait_for(lambda: self.power() == "On", "the BMC", 30, 0.2)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._process.kill()
        self._process.wait()

    def power(self) -> str:
        """The host's power as the BMC has it, "" while it does not answer."""
        request = urllib.request.Request(f"https://{self.address}/redfish/v1/Systems/{self.host.host_uuid}")
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=5) as answer:
                state: str = json.load(answer)["PowerState"]
                return state
        except (urllib.error.URLError, OSError):
            return ""

    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def _follow(self) -> None:
        while not self._stop.wait(0.05):
            if self.host.booted and self.power() == "Off":
                self.host.kill()
                self.cut_at = time.monotonic()
