"""How pages look: readable by people and by screen readers, in light and dark, on a desk and on a phone.

With --regenerate the pictures of docs/web.md are made anew; look at each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ostler.control.v1.backup_pb2 import Backup, CreateBackupRequest

from tests.browsers import WIDE, Visit, check_looks, findings
from tests.consoles import Served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vm(served: Served) -> str:
    """Path of a VM's page."""
    for name in ("mail", "shop"):
        served.create_vm(name)
    found = served.create_vm("wiki")
    served.site.add_backup_store()
    request = CreateBackupRequest(vm=found.id, name="before-upgrade")
    served.client.wait(served.client.backups.CreateBackup(request), Backup)
    return f"/vms/{found.id}"


PAGES: dict[str, Callable[[str], str]] = {
    "fleet": lambda vm: "/",
    "host": lambda vm: "/hosts/h1",
    "vms": lambda vm: "/vms",
    "vm": lambda vm: vm,
    "hosts-for": lambda vm: f"{vm}/hosts",
    "console": lambda vm: f"{vm}/console",
    "picture": lambda vm: f"{vm}/picture",
    "migrate": lambda vm: f"{vm}/do/migrate",
    "volumes": lambda vm: "/volumes?encryption=encrypted",
    "backups": lambda vm: "/backups",
    "backup": lambda vm: "/backups/before-upgrade",
    "restore": lambda vm: "/backups/before-upgrade/do/restore",
    "new-vm": lambda vm: "/new/vm",
    "keys": lambda vm: "/keys",
    "drs": lambda vm: "/drs?cluster=cluster",
    "cluster": lambda vm: "/clusters/cluster",
    "template": lambda vm: "/templates/tiny",
    "catalog": lambda vm: "/catalog",
    "settings": lambda vm: "/settings?cluster=cluster",
    "setting": lambda vm: "/settings/vm.stop.timeout",
    "operations": lambda vm: "/operations",
    "events": lambda vm: "/events",
    "failure": lambda vm: "/vms/absent",
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_readable(name: str, visit: Visit, vm: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    visit.page.set_viewport_size(WIDE)
    visit.page.goto(PAGES[name](vm))
    check_looks(visit.page, name, tmp_path, request)


def test_axe_finds_what_is_grave(visit: Visit) -> None:
    visit.page.set_content("<html><body><img src='data:,'><button></button></body></html>")
    assert {one.partition(":")[0] for one in findings(visit.page)} >= {"image-alt", "button-name"}
