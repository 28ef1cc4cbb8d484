"""Three replicas of the control plane on one PostgreSQL, set up as docs/replicas.md says: two of them are killed, then
all are upgraded one after the other."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.databases import postgresql_server, run_sql
from tests.lab.control import Control
from tests.lab.host import LOCAL, REPOSITORY, Host, environment, wait_for
from tests.lab.lab import Lab

pytestmark = pytest.mark.lab

KEYS = ("fleet-ca.pem", "users-ca.pem", "kek")


@dataclass
class Site:
    """controls: by replica id; the first of the list has the admin's profile, which names all addresses."""

    directory: Path
    host: Host
    controls: list[Control]
    url: str

    @property
    def by_id(self) -> dict[str, Control]:
        """The replicas that run."""
        return {
            (control.state_dir / "replica_id").read_text().strip(): control
            for control in self.controls
            if control.process is not None
        }

    def query(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement.encode()).fetchall()

    def ostler(self, *argv: str) -> str:
        return self.controls[0].ostler(*argv)

    @contextmanager
    def running(self, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """A command in the background."""
        command, pipe = [str(Path(sys.executable).parent / "ostler"), *argv], subprocess.PIPE
        with subprocess.Popen(
            command, env=self.controls[0].environment(), stdout=pipe, stderr=pipe, text=True
        ) as process:
            yield process
            process.kill()

    def upload(self, name: str) -> None:
        image = self.directory / f"{name}.raw"
        image.write_bytes(name[:1].encode() * 1024 * 1024)
        self.ostler("template", "upload", name, str(image), "--format", "raw")

    def kill(self, replica: str) -> None:
        self.by_id[replica].stop(signal.SIGKILL)

    def host_is_watched(self) -> bool:
        """Whether the leader has a stream from the host."""
        return "up" in self.ostler("host", "list", "-o", "csv", "--columns", "state")

    def shows(self, control: Control, vm: str) -> bool:
        """Whether this very replica answers."""
        profile = self.controls[0].profile.with_name("one.toml")
        text = self.controls[0].profile.read_text()
        profile.write_text(
            re.sub("^control_address.*$", f'control_address = "{control.address}"', text, flags=re.MULTILINE)
        )
        command = [str(Path(sys.executable).parent / "ostler"), "--profile", str(profile), "vm", "show", vm]
        return subprocess.run(command, env=self.controls[0].environment(), capture_output=True).returncode == 0

    def start_all(self) -> None:
        for control in self.controls:
            if control.process is None:
                control.start()


def _next_version(directory: Path) -> dict[str, str]:
    """The environment of a control plane of the next minor release, whose database has one more table."""
    shutil.copytree(REPOSITORY / "control" / "ostler_control", directory / "ostler_control")
    migration = "def up(migrator, db):\n    db.execute_sql('CREATE TABLE next_release (id text PRIMARY KEY)')\n"
    (directory / "ostler_control" / "migrations" / "0999_next_release.py").write_text(migration)
    (directory / "ostler-0.2.0.dist-info").mkdir()
    (directory / "ostler-0.2.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ostler\nVersion: 0.2.0\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(directory), environment()["PYTHONPATH"]])}


def _serves(control: Control) -> bool:
    """Whether it does itself: its profile names the others too, which answer for it."""
    return "serving" in control.log()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab.start(hosts=1) as lab, postgresql_server() as server, ExitStack() as stack:
        run_sql(server.url + "postgres", "CREATE DATABASE ostler")
        templates = lab.directory / "templates"
        templates.mkdir(mode=0o700)
        settings = {"OSTLER_CONTROL_DATABASE_URL": server.url + "ostler"}
        controls: list[Control] = []
        for n in range(3):
            control = Control(
                lab.directory / f"ctl{n}", lab.network, True, None, 8440 + 10 * n, 8441 + 10 * n, settings
            )
            control.state_dir.mkdir(mode=0o700, parents=True)
            (control.state_dir / "templates").symlink_to(templates)
            for name in KEYS if controls else ():
                shutil.copy2(controls[0].state_dir / name, control.state_dir / name)
            control.init()
            stack.callback(control.stop, signal.SIGKILL)
            control.start()
            wait_for(partial(_serves, control), "the replica", 60)
            controls.append(control)
        profile = controls[0].profile
        addresses = ",".join(control.address for control in controls)
        profile.write_text(profile.read_text().replace(controls[0].address, addresses))
        host = lab.hosts[0]
        host.driver = "qemu"  # needs no libvirtd
        site = Site(lab.directory, host, controls, server.url + "ostler")
        site.ostler("zone", "create", "lab")
        site.ostler("cluster", "create", "edge", "--zone", "lab")
        host.join(lab.network.gateway, site.ostler("host", "token", "edge", "-o", "name").strip())
        host.start_agent()
        wait_for(site.host_is_watched, "the host", 60, 0.3)
        site.ostler("pool", "create", "local", "--type", "local", "--path", LOCAL, "--host", host.name)
        site.ostler("offering", "create-service", "tiny", "--cpus", "1", "--memory", "128MiB")
        yield site


def test_work_goes_on_while_replicas_die_one_after_the_other(site: Site) -> None:
    site.upload("first")
    create = ("vm", "create", "--template", "first", "--offering", "tiny")
    site.host.freeze_daemon("agent")  # so that the kill finds the operation half done
    with site.running(*create, "web-1") as command:
        wait_for(lambda: site.query("SELECT FROM operation WHERE state = 'running'"), "the operation")
        [(runner,)] = site.query("SELECT replica FROM operation WHERE state = 'running'")
        site.kill(str(runner))
        site.host.thaw_daemon("agent")
        out, err = command.communicate(timeout=120)
    assert command.returncode == 0, f"{out}{err}"
    assert site.query("SELECT state, attempt FROM operation WHERE verb = 'vm.create'") == [("succeeded", 2)]

    # The one that is left knows templates uploaded through another one, and the host calls it for them by itself.
    site.upload("second")
    leader = min(site.by_id)
    site.kill(leader)
    site.ostler("vm", "create", "--template", "second", "--offering", "tiny", "web-2")
    assert sorted(site.ostler("vm", "list", "-o", "csv", "--columns", "name,state").split()[1:]) == [
        "web-1,running",
        "web-2,running",
    ]

    # It leads: it notices what happens on the host.
    site.host.stop_agent("KILL")
    wait_for(lambda: not site.host_is_watched(), "the end of the agent", 60, 0.5)
    site.host.start_agent()
    wait_for(site.host_is_watched, "the host", 60, 0.5)

    for name in ("web-1", "web-2"):
        site.ostler("vm", "stop", "--force", name)
    site.ostler("template", "delete", "second", "--yes")
    left = {path.name for path in (site.directory / "templates").iterdir() if not path.name.startswith(".")}
    assert left == {str(id_) for (id_,) in site.query("SELECT id FROM template")}


def test_replicas_are_upgraded_one_after_the_other_while_they_work(site: Site, tmp_path: Path) -> None:
    site.start_all()
    site.upload("rolling")
    create = ("vm", "create", "--template", "rolling", "--offering", "tiny")
    newer = _next_version(tmp_path / "next")
    for number, control in enumerate(site.controls):
        wait_for(site.host_is_watched, "the host", 60, 0.5)
        site.host.freeze_daemon("agent")  # so that the operation lasts until after the restart, whoever runs it
        with site.running(*create, f"rolling-{number}") as command:
            wait_for(lambda: site.query("SELECT FROM operation WHERE state = 'running'"), "the operation")
            control.stop()
            control.start(newer)
            site.host.thaw_daemon("agent")
            out, err = command.communicate(timeout=120)
        assert command.returncode == 0, f"{out}{err}"
        for replica in site.controls:  # old and new ones serve side by side
            wait_for(partial(site.shows, replica, f"rolling-{number}"), "the VM at one replica", 60)
        site.ostler("vm", "stop", "--force", f"rolling-{number}")
    assert set(site.query("SELECT state FROM operation WHERE verb = 'vm.create'")) == {("succeeded",)}

    assert site.query("SELECT name FROM schema_migration WHERE name = '0999_next_release'")

    # There is no way back: an older one refuses the database, and says why.
    last = site.controls[-1]
    last.stop()
    last.start()  # the others answer its admin
    assert last.process is not None
    assert last.process.wait(60) != 0
    assert "the database was made by a newer Ostler" in last.log()
    last.start(newer)
    wait_for(partial(site.shows, last, "rolling-0"), "the newer one", 60)
