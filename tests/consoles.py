"""A whole site whose hosts work in memory, served with TLS, and `ostler web` before it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ostler.client import connect
from ostler.client.client import Client
from ostler.client.profile import load, text
from ostler.control.v1.vm_pb2 import CreateVmRequest, Vm
from ostler_common import server, tls
from ostler_control import database
from ostler_control.api import core, work
from ostler_control.api.authorization import authorize
from ostler_control.caller import Role
from ostler_control.cli.app import App
from ostler_control.operations import Engine
from ostler_control.server import fleet_services
from ostler_control.web.security import ENTRANCE, Sessions
from ostler_control.web.server import LOOPBACK, bind, make_app, new_server

from tests import fleets
from tests.fakes.fleet import Fleet
from tests.sites import Site, new_engine, new_site

START_S = 30.0


@dataclass
class Served:
    """A site with its engine, and the admin's profile for its services."""

    site: Site
    engine: Engine
    profile: Path
    client: Client
    fleet: Fleet

    def create_vm(self, name: str, host: str = "", account: str = "") -> Vm:
        """A running VM."""
        request = CreateVmRequest(name=name, template="tiny", service_offering="encrypted", host=host, account=account)
        return self.client.wait(self.client.vms.CreateVm(request), Vm)

    def member(self, name: str) -> Path:
        """The profile of a new member of an account of the same name."""
        files, admin = self.fleet.user(name, Role.MEMBER), load(self.profile)
        path = self.profile.with_name(f"{name}.toml")
        path.write_text(text(admin.control_address, str(admin.ca), str(files.certificate), str(files.key)))
        return path


@contextlib.contextmanager
def served_site(directory: Path) -> Iterator[Served]:
    """A site whose services answer the admin's profile."""
    fleet = Fleet(directory)
    with contextlib.ExitStack() as stack:
        stack.callback(database.disconnect)
        database.connect(fleet.config.database)
        stack.enter_context(database.session())
        site = new_site(fleet.config.database, fleet.config.state_dir)
        stack.callback(site.fleet.stop)
        engine, profile = stack.enter_context(_serving(fleet))
        yield Served(site, engine, profile, stack.enter_context(connect(profile)), fleet)


@contextlib.contextmanager
def served_rows(directory: Path, hosts: int, vms: int) -> Iterator[Path]:
    """The admin's profile for services with so many hosts, which nobody calls, and VMs with a disk each."""
    fleet = Fleet(directory)
    with contextlib.ExitStack() as stack:
        stack.callback(database.disconnect)
        database.connect(fleet.config.database)
        stack.enter_context(database.session())
        rows = fleets.make_fleet(hosts)
        fleets.fill(rows, vms)
        fleets.add_disks(rows)
        _, profile = stack.enter_context(_serving(fleet))
        yield profile


@contextlib.contextmanager
def _serving(fleet: Fleet) -> Iterator[tuple[Engine, Path]]:
    """The services of a control plane that watches no hosts, and the admin's profile for them."""
    with contextlib.ExitStack() as stack:
        engine = new_engine(fleet.config.state_dir)
        stack.callback(engine.agents.close)
        stack.callback(engine.stop)
        engine.start()
        stopping = threading.Event()
        services = fleet_services(fleet.authority, engine.agents, engine.keys, fleet.config, lambda: None, stopping)
        main = server.serve(
            fleet.config.listen,
            credentials=tls.server_credentials(fleet.config.state.server_tls()),
            services={**core.SERVICES, **services, **work.services(engine)},
            authorize=authorize,
            workers=16,
        )
        stack.callback(lambda: main.stop(1.0).wait())
        stack.callback(stopping.set)
        profile = fleet.directory / "profile.toml"
        profile.write_text(profile.read_text().replace("127.0.0.1:0", f"127.0.0.1:{main.port}"))
        yield engine, profile


@contextlib.contextmanager
def console(profile: Path) -> Iterator[str]:
    """The console on a free port of loopback; yields the link that opens it."""
    listener = bind(0)
    port = listener.getsockname()[1]
    sessions = Sessions()
    running = new_server(make_app(App(profile), port, sessions, lambda: None))
    thread = threading.Thread(target=running.run, args=([listener],), name="console", daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{port}{ENTRANCE}?token={sessions.new_token()}"
    finally:
        running.should_exit = True
        thread.join(START_S)
        listener.close()
