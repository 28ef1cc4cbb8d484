"""A fleet for measurements: its database, its agents, and one or more control planes, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ostler_common import pki
from ostler_common.identity import Identity, Kind
from ostler_control import database
from ostler_control.config import ControlConfig
from ostler_control.initialize import initialize
from ostler_control.models import Host, HostState, ServiceOffering, Template, Vm, tuples
from ostler_control.trust.authority import Authority

from tests import databases, fleets
from tests.bench.fleet.agents import CPUS, MEMORY_BYTES
from tests.bench.fleet.share import limited
from tests.fakes.working_agent import wait_until

OFFERING, TEMPLATE = "encrypted", "tiny"
# So many hosts share a process of simulated agents.
_HOSTS_PER_PROCESS = 1000
_START_S = 300.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Use:
    """What a process uses: CPU time so far, resident memory, threads, and bytes written to disk so far."""

    cpu_s: float
    rss_bytes: int
    threads: int
    written_bytes: int


@dataclass
class Replica:
    """A running `ostler-control`."""

    config: ControlConfig
    process: subprocess.Popen[bytes]
    port: int

    @property
    def use(self) -> Use:
        process = Path("/proc") / str(self.process.pid)
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        io = dict(line.split(": ") for line in (process / "io").read_text().splitlines())
        return Use(
            (int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
            int(status["VmRSS"].split()[0]) * 1024,
            int(status["Threads"]),
            int(io["write_bytes"]),
        )


@dataclass(frozen=True)
class Site:
    """A fleet whose hosts listen and whom no control plane has called yet. share: of a core, for each control plane; 0:
    as much as it gets."""

    directory: Path
    url: str
    hosts: int
    vms: int
    share: float = 0.0

    @property
    def profile(self) -> Path:
        return self.directory / "profile.toml"

    @contextlib.contextmanager
    def control(self, number: int = 0) -> Iterator[Replica]:
        """A replica, by its number."""
        config = _config(self.directory, self.url, number)
        path = config.state_dir / "control.toml"
        path.write_text(
            "\n".join(
                f"{key} = {json.dumps(str(value))}"
                for key, value in {
                    "state_dir": config.state_dir,
                    "listen": config.listen,
                    "enroll_listen": config.enroll_listen,
                    "metrics_listen": "",
                    "advertise_address": config.advertise_address,
                    "database_url": config.database_url,
                    "log_level": "warning",
                }.items()
            )
        )
        with (self.directory / f"control-{number}.log").open("ab") as log:
            argv = [sys.executable, "-m", "ostler_control.main", "--config", str(path), "run"]
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        with limited(process.pid, self.share) if self.share else contextlib.nullcontext(), _ending(process):
            yield Replica(config, process, int(config.listen.rpartition(":")[2]))

    def up(self) -> int:
        """How many hosts the control plane has heard. In the bound database."""
        with database.session():
            return Host.select().where(Host.state == HostState.UP).count()


@contextlib.contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _config(directory: Path, url: str, number: int) -> ControlConfig:
    state_dir = directory / f"state-{number}"
    state_dir.mkdir(exist_ok=True)
    ports = state_dir / "ports"
    if not ports.exists():
        ports.write_text(f"{databases.free_port()} {databases.free_port()}")
    main, enrollment = ports.read_text().split()
    return ControlConfig(
        state_dir=state_dir,
        listen=f"127.0.0.1:{main}",
        enroll_listen=f"127.0.0.1:{enrollment}",
        metrics_listen="",
        advertise_address="127.0.0.1",
        database_url=url,
    )


def _share_state(first: Path, other: Path) -> None:
    """As docs/replicas.md has it: the CAs and the key-encryption key are copied, the templates shared."""
    for name in ("fleet-ca.pem", "users-ca.pem", "kek"):
        pki.write_private(other / name, (first / name).read_bytes())
    (other / "templates").symlink_to(first / "templates")


@contextlib.contextmanager
def new_site(
    kind: str, hosts: int, vms: int, work_s: float = 0.0, replicas: int = 1, share: float = 0.0
) -> Iterator[Site]:
    """kind: "sqlite" or "postgresql"; work_s: how long the agents take for a job; replicas: how many may be started;
    share: see `Site`."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ostler-bench-")))
        url = ""
        if kind == "postgresql":
            url = stack.enter_context(databases.postgresql_server()).url + "postgres"
        config = _config(directory, url, 0)
        list(initialize(config, "admin", directory / "profile.toml"))
        for number in range(1, replicas):
            other = _config(directory, url, number)
            _share_state(config.state_dir, other.state_dir)
            list(initialize(other, "admin", directory / f"profile-{number}.toml"))
        database.connect(config.database)
        stack.callback(database.disconnect)
        asked = _fill(Authority.load(config.state, config.lifetimes), hosts, vms)
        for first in range(0, hosts, _HOSTS_PER_PROCESS):
            part = directory / f"agents-{first}"
            part.mkdir()
            (part / "trust.pem").write_bytes(config.state.fleet_trust.read_bytes())
            (part / "hosts.json").write_text(
                json.dumps({"work_s": work_s, "hosts": asked[first : first + _HOSTS_PER_PROCESS]})
            )
            argv = [sys.executable, "-m", "tests.bench.fleet.agents", str(part)]
            with (directory / "agents.log").open("ab") as log:
                agents = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=log))
            stack.callback(agents.kill)
            wait_until(lambda: (part / "ports.json").exists() or agents.poll() is not None, _START_S)  # noqa: B023
            _set_ports(json.loads((part / "ports.json").read_text()))
        yield Site(directory, url, hosts, vms, share)


def _fill(authority: Authority, hosts: int, vms: int) -> list[dict[str, object]]:
    """Hosts that were not heard yet, their VMs, and what the agents are to know."""
    with database.session():
        rows = fleets.make_fleet(
            hosts, cpus=CPUS, memory_bytes=MEMORY_BYTES, state="connecting", capabilities="", bridges="br0"
        )
        fleets.fill(rows, vms)
        fleets.add_disks(rows)
        ServiceOffering.create(name=OFFERING, cpus=1, memory_bytes=fleets.GIB, encrypt_root=True)
        Template.create(
            name=TEMPLATE, format="qcow2", virtual_size_bytes=fleets.GIB, file_size_bytes=1 << 20, sha256="0" * 64
        )
        by_host: dict[str, list[str]] = {str(host.id): [] for host in rows.hosts}
        for vm_id, host_id in tuples(Vm.select(Vm.id, Vm.host), tuple[str, str]):
            by_host[host_id].append(vm_id)
        asked: list[dict[str, object]] = []
        with database.transaction():
            for host in rows.hosts:
                identity = Identity(Kind.HOST, str(host.id))
                key, csr = pki.new_key_and_csr(identity)
                certificate = authority.issue(csr, identity, ("127.0.0.1",))
                pair = {"key": key.decode(), "certificate": certificate.decode()}
                asked.append({"id": host.id, "name": host.name, "vms": by_host[str(host.id)], **pair})
        return asked


def _set_ports(ports: dict[str, int]) -> None:
    with database.transaction():
        for host_id, port in ports.items():
            Host.update(address=f"127.0.0.1:{port}").where(Host.id == host_id).execute()


def wait_for_hosts(site: Site, replica: Replica, timeout_s: float) -> float:
    """Seconds from now until every host is up."""
    begin = time.monotonic()
    wait_until(lambda: site.up() == site.hosts or replica.process.poll() is not None, timeout_s)
    assert replica.process.poll() is None, (site.directory / "control-0.log").read_text()[-3000:]
    return time.monotonic() - begin
