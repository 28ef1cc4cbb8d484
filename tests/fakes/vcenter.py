"""A vCenter for tests: the Go program in tests/fakevc, built once and started for each test."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from ostler_common.identity import Identity, Kind
from ostler_common.secret import Secret
from ostler_control.vmware.connection import Server
from ostler_control.vmware.trust import Trust

from tests import go_programs
from tests.fakes.certificates import ThrowawayCa
from tests.needs import need

TOP = Path(__file__).parents[2]
SOURCES = TOP / "tests" / "fakevc"
CACHE = TOP / ".cache" / "fakevc"
GOVMOMI = Path("/usr/share/gocode/src/github.com/vmware/govmomi/simulator")
USER, PASSWORD = "administrator@vsphere.local", "secret-of-the-tests"

Json = Any


def missing() -> str | None:
    """Why the vCenter cannot be built on this machine; None when it can."""
    if not shutil.which("go"):
        return "needs Go to build the tests' vCenter (make setup)"
    if not GOVMOMI.is_dir():
        return "needs golang-github-vmware-govmomi-dev to build the tests' vCenter (make setup)"
    return None


def program() -> Path:
    """The built program. It is kept under the hash of its sources; the first build takes about a minute.

    Skips the test where it cannot be built.
    """
    need(missing())
    digest = hashlib.sha256()
    for source in sorted(SOURCES.glob("*.go")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    built = CACHE / digest.hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            new = CACHE / "new"
            go_programs.build(SOURCES, new, gopath=str(go_programs.LIBRARIES))
            new.rename(built)
    return built


@dataclass(frozen=True)
class FakeVcenter:
    """One that runs. host, port: where; control: address of its side door; ca_pem, sha256: to verify it by."""

    host: str
    port: int
    control: str
    ca_pem: str
    sha256: str

    def server(self, trust: Trust | None = None) -> Server:
        """How to connect to it."""
        return Server(self.host, USER, trust or Trust(sha256=self.sha256), self.port)

    @property
    def password(self) -> Secret:
        """The only password that it accepts."""
        return Secret(PASSWORD.encode())

    def faults(self, **faults: Json) -> None:
        """Replaces what goes wrong: fields of faultSpec in tests/fakevc/lease.go."""
        self._post("/faults", faults)

    def end_sessions(self) -> None:
        """Ends every session, and with it its leases."""
        self._post("/end-sessions")

    def write(self, vm: str, offset: int, data: bytes, disk: int = 0) -> None:
        """A running guest writes to a disk that has a flat file. disk: 0 for the first."""
        self._post("/write", {"vm": vm, "disk": disk, "offset": offset, "data": base64.b64encode(data).decode()})

    def reset_tracking(self) -> None:
        """Makes all change ids invalid."""
        self._post("/reset-tracking")

    def leases(self) -> list[Json]:
        """Every lease there ever was: vm, state, progress, files."""
        return list(httpx.get(f"{self.control}/leases", trust_env=False, verify=_NO_TLS).raise_for_status().json())

    def _post(self, path: str, body: Json = None) -> None:
        httpx.post(self.control + path, json=body or {}, trust_env=False, verify=_NO_TLS).raise_for_status()


# The control port speaks plain HTTP: no authorities are read for it.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextlib.contextmanager
def vcenter(
    directory: Path, vms: Sequence[Json], *, esx: bool = False, standalone: bool = False
) -> Iterator[FakeVcenter]:
    """A vCenter with these VMs, see vmSpec in tests/fakevc/main.go. esx: disks come from a second server, with a
    certificate of its own, as from an ESXi host; standalone: it is an ESXi host without a vCenter."""
    built = program()
    ca = ThrowawayCa(directory, "vcenter")
    files = ca.issue(Identity(Kind.HOST, "vcenter"), addresses=("127.0.0.1", "localhost"))
    spec = directory / "vms.json"
    spec.write_text(json.dumps(vms))
    command: list[str | Path] = [built, "-cert", files.certificate, "-key", files.key, "-spec", spec]
    command += ["-user", USER, f"-standalone={str(standalone).lower()}"]
    if esx:
        (directory / "esx").mkdir()
        other = ThrowawayCa(directory / "esx", "esx").issue(Identity(Kind.HOST, "esx"), addresses=("127.0.0.1",))
        command += ["-esx-cert", other.certificate, "-esx-key", other.key]
    with (directory / "vcenter.log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{PASSWORD}\n")
        process.stdin.close()
        line = process.stdout.readline()
        assert line, (directory / "vcenter.log").read_text()
        said = json.loads(line)
        host, _, port = said["addr"].rpartition(":")
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        yield FakeVcenter(
            host=host,
            port=int(port),
            control=said["control"],
            ca_pem=files.trust.read_text(),
            sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        )
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
