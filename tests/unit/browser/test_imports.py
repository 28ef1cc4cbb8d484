"""Imports in the browser, from the tests' vCenter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1.import_plan_pb2 import CreateImportPlanRequest
from ostler_control import database
from ostler_control.imports import sources
from ostler_control.models import ServiceOffering
from playwright.sync_api import expect

from tests.browsers import Visit, check_looks
from tests.consoles import Served
from tests.fakes.vcenter import vcenter
from tests.sites import GIB
from tests.unit.imports.vm_imports import new_source
from tests.unit.vmware.conftest import MIB, NETWORK, make_vmdk, vm_spec

pytestmark = pytest.mark.slow

PLAN = f"""\
name: wave-1
source: vc1
defaults: {{offering: two, networks: {{{NETWORK}: public}}, stopped: true}}
vms:
  - {{vm: app-1}}
  - {{vm: app-2, offering: plain}}
"""


@pytest.fixture(scope="module", autouse=True)
def _source(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("vcenter")
    disk = make_vmdk(directory / "disk.vmdk", 2 * MIB, 1)
    with vcenter(directory, [vm_spec(name, [disk]) for name in ("app-1", "app-2", "shop-1")]) as server:
        with database.transaction():
            ServiceOffering.create(name="two", cpus=2, memory_bytes=GIB)
        sources.create(new_source(server), "admin", served.site.keys)
        yield


def test_a_vm_is_checked_and_imported(visit: Visit, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = visit.page
    page.goto("/imports")
    page.get_by_role("link", name="vc1").click()
    page.get_by_label("Name has").fill("shop")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#command")).to_have_text("ostler import list-vms vc1 --name shop")
    check_looks(page, "inventory", tmp_path, request)
    page.get_by_role("link", name="shop-1").click()
    page.get_by_label("Service offering").fill("two")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("status").last).to_have_text("no-go: fix the errors first")
    expect(page.get_by_role("cell", name="NIC_NOT_MAPPED")).to_be_visible()
    check_looks(page, "no-go", tmp_path, request)
    page.get_by_label(f"Network for {NETWORK}").fill("public")
    page.get_by_label("Leave the new VM off").check()
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#command")).to_have_text(
        f"ostler import vm vc1 shop-1 --offering two --network {NETWORK}=public --stopped"
    )
    page.get_by_role("button", name="Import").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.get_by_role("link", name="To the vm shop-1").click()
    expect(page.locator("h1")).to_contain_text("stopped")


def test_a_wave_is_followed_on_its_board(
    visit: Visit, served: Served, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page = visit.page
    served.client.import_plans.CreateImportPlan(CreateImportPlanRequest(document=PLAN.encode()))
    page.goto("/imports")
    page.get_by_role("link", name="wave-1").click()
    page.get_by_role("link", name="Check").click()
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#live")).to_contain_text("no-go")
    page.get_by_role("link", name="Start").click()
    expect(page.locator("#command")).to_have_text("ostler import plan start wave-1")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("h1")).to_contain_text("partial")
    expect(page.locator("#live")).to_contain_text("1 of 2 VMs imported")
    check_looks(page, "board", tmp_path, request)
    page.get_by_role("link", name="app-1").click()
    expect(page.locator("h1")).to_contain_text("VM app-1")
