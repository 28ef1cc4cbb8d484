"""Imports that are killed at every point: what their crash tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ostler_common.errors import FailedPreconditionError
from ostler_control.imports import sources
from ostler_control.models import Host, ImportFile, ImportSource, Operation, ServiceOffering, Vm, VmImport, Volume
from ostler_control.vmware.clone import list_clones

from tests import databases
from tests.fakes.vcenter import FakeVcenter
from tests.fakes.working_agent import Fault, wait_until
from tests.sites import Site, new_site
from tests.unit.control.crashes import are_over, control, kill_at_every_point


def kept_site(state_dir: Path, url: str) -> Site:
    """A site whose hosts h1 and h2 convert, with a service offering `two` that encrypts."""
    site = new_site(url, state_dir)
    Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
    ServiceOffering.create(name="two", cpus=2, memory_bytes=1 << 30, encrypt_root=True)
    return site


@contextmanager
def sqlite_site(tmp_path: Path) -> Iterator[Site]:
    """Such a site on SQLite, which is stopped at the end."""
    state_dir = tmp_path / "site"
    state_dir.mkdir()
    with databases.bound(f"sqlite:///{state_dir}/ostler.sqlite") as url:
        site = kept_site(state_dir, url)
        yield site
        site.fleet.stop()


def check_source_clean(site: Site, source: ImportSource, server: FakeVcenter) -> None:
    """Nothing of an import is left on the vCenter, in staging directories or in the database."""
    with sources.connect(source, site.keys) as connection:
        assert list_clones(connection) == {}
    assert {lease["state"] for lease in server.leases()} <= {"done", "error"}
    assert site.fleet.staging == {}
    assert VmImport.select().count() == ImportFile.select().count() == 0


def survive_kills(
    site: Site, operations: Mapping[str, list[Operation]], method: str, volume_id: Callable[[Any], str]
) -> None:
    """Kills them at every point and lets another process go on: the `good` ones succeed, the `doomed` ones fail.

    method: the agents' call in which the doomed ones fail; volume_id: of its request, the volume's.
    """
    doomed = {row.id for row in Volume.select().where(Volume.name.startswith("doomed"))}
    no = Fault(
        FailedPreconditionError("no", "NO_WAY"),
        before=False,
        times=1000,
        only=lambda request: volume_id(request) in doomed,
    )
    for fake in site.hosts.values():
        fake.fail(method, no)
    every = kill_at_every_point(site, operations)
    with control(site, {}):
        wait_until(lambda: are_over(every), 240)
    states = {kind: {Operation.get_by_id(o.id).state for o in members} for kind, members in operations.items()}
    assert states == {"good": {"succeeded"}, "doomed": {"failed"}}
    good = {Operation.get_by_id(operation.id).resource_id for operation in operations["good"]}
    assert {vm.id for vm in Vm.select()} == good
    assert set(site.fleet.files()) == {row.id for row in Volume.select()}
