"""What is broken: replicas of a control plane as processes, agents in this one, and relays between all of them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format
from ostler.client.profile import load, text
from ostler.types.v1.host_pb2 import Capabilities
from ostler.types.v1.volume_pb2 import DISK_FORMAT_QCOW2, DISK_FORMAT_RAW
from ostler_common import pki
from ostler_control import database
from ostler_control.caller import Role
from ostler_control.models import Account, Host
from ostler_control.trust import users

from tests import databases, sites
from tests.chaos.history import user_of
from tests.chaos.power import Powers
from tests.chaos.wires import Wires
from tests.databases import PostgresServer, free_port, run_sql
from tests.fakes.fleet import Fleet
from tests.fakes.link import missing
from tests.fakes.relay import Relay
from tests.fakes.watched_host import WatchedHost
from tests.fakes.working_agent import FakeHost, wait_until
from tests.sites import Site
from tests.small_disks import SmallDisk, small_disk

START_S, STOP_S = 60.0, 20.0
DISK_BYTES = 64 << 20
PACE_S = 0.2
PORT_TAKEN = "the port is in use"


@dataclass
class Replica:
    """A process. fence_agents: where it finds them; relay: through which clients reach it; database: through which it
    reaches PostgreSQL."""

    state_dir: Path
    url: str
    fence_agents: Path
    port: int
    relay: Relay
    log: Path
    database: Relay | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "tests.chaos.replica"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, str(self.state_dir), self.url, str(self.port), str(self.fence_agents)],
                stdout=log,
                stderr=log,
                stdin=subprocess.PIPE,
            )

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def set_clock(self, seconds: int) -> None:
        """Its clock is wrong by so much from now on."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d\n" % seconds)
        self.process.stdin.flush()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(STOP_S)

    def is_serving(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None and PORT_TAKEN in self.log.read_text()[-4000:]:
            self.start()  # somebody's connection has had its port while it was dead
            return False
        assert self.process.poll() is None, f"the control plane ended: {self.log.read_text()[-4000:]}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False


@dataclass
class Place:
    """profiles: of the clients; wires: all networks; powers: of the hosts; hosts: the relay before each agent, by the
    host's name; server: PostgreSQL, if the database is on it; disk: that of the control plane, if it may be filled;
    left_out: which faults this machine cannot have, and why.
    """

    site: Site
    profiles: list[Path]
    wires: Wires
    powers: Powers
    replicas: list[Replica]
    hosts: dict[str, Relay]
    server: PostgresServer | None
    disk: SmallDisk | None
    left_out: list[str]

    def wait_for_replicas(self) -> None:
        for replica in self.replicas:
            wait_until(replica.is_serving, START_S)


def _tell(fake: FakeHost) -> None:
    """Lets a host tell what happens on it."""
    row = Host.get_by_id(fake.host_id)
    able = json_format.Parse(row.capabilities or "{}", Capabilities())
    able.hypervisor_type, able.hypervisor_display_name = row.hypervisor_type, "KVM"
    able.cpus, able.memory_bytes = row.cpus, row.memory_bytes
    able.volume_encryption, able.uefi, able.nic_filter = row.volume_encryption, row.uefi, True
    able.bridges.append(row.bridges)
    able.template_formats.extend((DISK_FORMAT_QCOW2, DISK_FORMAT_RAW))
    able.functions.extend(row.functions.split(","))
    # What is not asked of it here is not there.
    fake.watched = WatchedHost(fake.host_id, fake.name, able, fake.vm_infos, fake.look)  # type: ignore[abstract]
    fake.stop()
    fake.port = free_port()  # nobody's connection takes it while the agent is dead
    fake.start()


@contextlib.contextmanager
def place(directory: Path, seed: int, replicas: int, clients: int) -> Iterator[Place]:
    """With one replica on SQLite, with more on a PostgreSQL server of its own."""
    with contextlib.ExitStack() as stack:
        wires, may_mount = Wires(stack, seed), os.geteuid() == 0
        server, url = None, ""
        if replicas > 1:
            server = stack.enter_context(databases.postgresql_server(small=may_mount))
            run_sql(server.url + "postgres", "CREATE DATABASE ostler")
            url = server.url + "ostler"
        disk = None
        if replicas == 1 and may_mount:
            disk = stack.enter_context(small_disk(directory / "state", DISK_BYTES))
        fleet = Fleet(directory, url)
        stack.callback(database.disconnect)
        database.connect(fleet.config.database)
        with database.session():
            site = sites.new_site(fleet.config.database, fleet.config.state_dir, directory)
            stack.callback(site.fleet.stop)
            site.fleet.image_locks = True
            # So that faults find jobs under way.
            site.fleet.pace = lambda: time.sleep(random.uniform(0.0, PACE_S))
            hosts = {}
            for name, fake in site.hosts.items():
                _tell(fake)
                hosts[name] = wires.add(fake.port)
                Host.update(address=wires.address(hosts[name])).where(Host.name == name).execute()
            powers = Powers(site, directory / "bmcs", seed)
            stack.callback(powers.stop)
        members = []
        for number in range(replicas):
            state_dir = directory / f"replica-{number}"
            if replicas == 1:
                state_dir = fleet.config.state_dir
            else:
                shutil.copytree(fleet.config.state_dir, state_dir)
            port = free_port()
            own, relay = None, wires.add(port)
            database_url = fleet.config.database
            if server is not None:
                own = wires.add(server.port)
                database_url = f"postgresql://ostler@{wires.address(own)}/ostler"
            log = directory / f"replica-{number}.log"
            replica = Replica(state_dir, database_url, powers.directory, port, relay, log, own)
            stack.callback(replica.kill)
            replica.start()
            members.append(replica)
        addresses = ",".join(wires.address(replica.relay) for replica in members)
        profiles = [_profile(fleet, user_of(number), addresses) for number in range(clients)]
        left_out = [f"no packet was lost or stopped: {why}" for why in [missing()] if why]
        left_out += [] if may_mount else ["no disk was filled: only root can mount"]
        found = Place(site, profiles, wires, powers, members, hosts, server, disk, left_out)
        found.wait_for_replicas()
        yield found


def _profile(fleet: Fleet, name: str, addresses: str) -> Path:
    """That of a new user, an admin of the same account as all."""
    with database.transaction():
        account = Account.get(Account.name == "admin")
        user = users.create(name, Role.ADMIN, account, "test")
        key, csr = pki.new_key_and_csr(users.identity(user))
        own = fleet.credentials(name, key, users.issue(fleet.authority, user, csr, "test"))
    path = fleet.directory / f"{name}.toml"
    path.write_text(text(addresses, str(load(fleet.directory / "profile.toml").ca), str(own.certificate), str(own.key)))
    return path
