"""Snapshots of VMs in the browser."""

from __future__ import annotations

import pytest
from ostler.control.v1 import vm_pb2
from playwright.sync_api import Page, expect

from tests.browsers import Visit
from tests.consoles import Served

pytestmark = pytest.mark.slow


def test_a_vm_goes_back_to_its_snapshot_which_is_deleted_as_a_whole(visit: Visit, served: Served) -> None:
    page = visit.page
    vm = served.create_vm("books")
    page.goto(f"/vms/{vm.id}")
    page.get_by_role("link", name="Take a snapshot").click()
    page.get_by_label("Name").fill("monday")
    page.get_by_label("With its memory").check()
    expect(page.locator("#command")).to_have_text("ostler vm snapshot create books --name monday --memory")
    send(page, "Take a snapshot")
    page.get_by_role("link", name="To the vm-snapshot monday").click()
    expect(page.locator("h1")).to_contain_text("ready")

    page.get_by_role("link", name="Snapshot monday-root").click()
    expect(page.get_by_role("link", name="VM snapshot monday")).to_be_visible()
    expect(page.get_by_role("link", name="Delete")).to_have_count(0)

    open_snapshot(page, vm.id)
    page.get_by_role("link", name="Revert the VM").click()
    page.get_by_role("button", name="Revert the VM").click()
    expect(page.get_by_role("alert")).to_contain_text("VM_RUNNING")
    served.client.wait(served.client.vms.StopVm(vm_pb2.StopVmRequest(vm="books", force=True)), vm_pb2.Vm)
    open_snapshot(page, vm.id)
    page.get_by_role("link", name="Revert the VM").click()
    expect(page.locator("#command")).to_have_text("ostler vm snapshot revert monday --yes")
    send(page, "Revert the VM")
    page.goto(f"/vms/{vm.id}")
    expect(page.locator("h1")).to_contain_text("running")

    open_snapshot(page, vm.id)
    page.get_by_role("link", name="Delete").click()
    send(page, "Delete")
    page.goto(f"/vms/{vm.id}")
    expect(page.get_by_role("link", name="monday", exact=True)).to_have_count(0)


def send(page: Page, button: str) -> None:
    page.get_by_role("button", name=button).click()
    expect(page.locator("h1")).to_contain_text("succeeded")


def open_snapshot(page: Page, vm_id: str) -> None:
    page.goto(f"/vms/{vm_id}")
    page.get_by_role("link", name="monday", exact=True).click()
