"""The console as its user sees it: in Chromium, before a site whose hosts work in memory."""

from __future__ import annotations

import re

import pytest
from ostler.control.v1.vm_pb2 import GetVmRequest, StartVmRequest, StopVmRequest, Vm
from ostler.types.v1.guest_pb2 import GuestInfo
from ostler.types.v1.vm_pb2 import FIRMWARE_UEFI
from playwright.sync_api import expect

from tests.browsers import Visit
from tests.consoles import Served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _vms(served: Served) -> None:
    for name in ("web-1", "web-2", "db-1"):
        served.create_vm(name)


def test_a_vm_is_created(visit: Visit) -> None:
    page = visit.page
    page.goto("/vms")
    page.get_by_role("link", name="Create VM").click()
    expect(page.locator("#command")).to_have_text("ostler vm create NAME --template TEMPLATE --offering OFFERING")
    expect(page.locator("#values-template option")).to_have_count(1)
    page.get_by_label("Name").fill("new-1")
    page.get_by_label("Template", exact=True).fill("tiny")
    page.get_by_label("Service offering", exact=True).fill("encrypted")
    page.get_by_label("Size of the root disk").fill("much")
    page.get_by_role("button", name="Create VM").click()
    expect(page.get_by_role("alert")).to_contain_text("BAD_SIZE")
    page.get_by_label("Size of the root disk").fill("")
    expect(page.locator("#command")).to_have_text("ostler vm create new-1 --template tiny --offering encrypted")
    page.get_by_role("button", name="Create VM").click()
    expect(page.locator("h1")).to_contain_text("vm.create new-1")
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.get_by_role("link", name="To the vm new-1").click()
    expect(page.locator("h1")).to_contain_text("running")


def test_a_vm_is_stopped_and_started(visit: Visit) -> None:
    page = visit.page
    visit.open_vm("web-1")
    page.get_by_role("link", name="Stop", exact=True).click()
    expect(page.locator("#command")).to_have_text("ostler vm stop web-1")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("h1")).to_contain_text("vm.stop web-1")
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.get_by_role("link", name="To the vm web-1").click()
    expect(page.locator("h1")).to_contain_text("stopped")
    page.get_by_role("link", name="Start", exact=True).click()
    page.get_by_role("button", name="Start").click()
    expect(page.locator("h1")).to_contain_text("succeeded")


def test_a_page_shows_what_happens_elsewhere(visit: Visit, served: Served) -> None:
    page = visit.page
    visit.open_vm("web-2")
    expect(page.locator("h1")).to_contain_text("running")
    served.client.wait(served.client.vms.StopVm(StopVmRequest(vm="web-2")), Vm)
    expect(page.locator("h1")).to_contain_text("stopped")
    expect(page.get_by_role("link", name="Start", exact=True)).to_be_visible()


def test_a_vm_migrates_where_the_form_says(visit: Visit, served: Served) -> None:
    page = visit.page
    before = served.client.vms.GetVm(GetVmRequest(vm="db-1")).host_name
    target = "h2" if before == "h1" else "h1"
    visit.open_vm("db-1")
    page.get_by_role("link", name="Migrate").click()
    page.get_by_label("Copy disks").check()
    page.get_by_label("Host").fill("no such")
    expect(page.locator("#command")).to_have_text("ostler vm migrate db-1 --host 'no such' --with-storage")
    page.get_by_role("button", name="Migrate").click()
    expect(page.get_by_role("alert")).to_contain_text("HOST_NOT_FOUND")
    page.get_by_label("Host").fill(target)
    page.get_by_role("button", name="Migrate").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    assert served.client.vms.GetVm(GetVmRequest(vm="db-1")).host_name == target


def test_firmware_and_tpm_of_a_stopped_vm_are_set(visit: Visit, served: Served) -> None:
    page, vm = visit.page, served.create_vm("firm").id
    page.goto(f"/vms/{vm}")
    expect(page.get_by_role("link", name="Set firmware")).to_have_count(0)
    served.client.wait(served.client.vms.StopVm(StopVmRequest(vm=vm, force=True)), Vm)
    page.get_by_role("link", name="Set firmware").click()
    page.get_by_role("button", name="Set firmware").click()
    expect(page.get_by_role("alert")).to_contain_text("REQUIRED")
    page.get_by_label("Give it an emulated TPM").check()
    page.get_by_label("Destroy its TPM").check()
    page.get_by_role("button", name="Set firmware").click()
    expect(page.get_by_role("alert")).to_contain_text("CONFLICTING_FIELDS")
    page.get_by_label("Destroy its TPM").uncheck()
    page.get_by_label("Firmware").fill("coreboot")
    page.get_by_role("button", name="Set firmware").click()
    expect(page.get_by_role("alert")).to_contain_text("INVALID_FIELD")
    page.get_by_label("Firmware").fill("uefi")
    expect(page.locator("#command")).to_have_text("ostler vm set-firmware firm --yes --firmware uefi --tpm")
    page.get_by_role("button", name="Set firmware").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    changed = served.client.vms.GetVm(GetVmRequest(vm=vm))
    assert (changed.firmware, changed.tpm) == (FIRMWARE_UEFI, True)


def test_the_serial_console_is_in_the_page(visit: Visit) -> None:
    page = visit.page
    visit.open_vm("db-1")
    page.get_by_role("link", name="Console").click()
    expect(page.locator("#state")).to_have_text("Connected.")
    page.keyboard.type("a")
    expect(page.locator("#terminal")).to_contain_text("echo a")
    page.keyboard.press("Control+]")
    expect(page.get_by_role("link", name="db-1")).to_be_focused()


def test_a_console_that_ends_says_why_and_connects_again(visit: Visit, served: Served) -> None:
    page = visit.page
    vm = served.create_vm("short").id
    page.goto(f"/vms/{vm}/console")
    expect(page.locator("#state")).to_have_text("Connected.")
    served.client.wait(served.client.vms.StopVm(StopVmRequest(vm=vm, force=True)), Vm)
    page.reload()
    expect(page.locator("#state")).to_contain_text("VM_STATE")
    served.client.wait(served.client.vms.StartVm(StartVmRequest(vm=vm)), Vm)
    page.get_by_role("button", name="Connect again").click()
    expect(page.locator("#state")).to_have_text("Connected.")


def test_labels_are_set_and_removed(visit: Visit, served: Served) -> None:
    page = visit.page
    served.create_vm("tagged")
    visit.open_vm("tagged")
    page.get_by_role("link", name="Labels").click()
    page.get_by_label("KEY=VALUE").fill("env prod")
    page.get_by_role("button", name="Labels").click()
    expect(page.get_by_role("alert")).to_contain_text("INVALID_LABEL")
    page.get_by_label("KEY=VALUE").fill("env=prod  tier=web")
    expect(page.locator("#command")).to_have_text("ostler vm label tagged env=prod tier=web")
    page.get_by_role("button", name="Labels").click()
    expect(page.locator("#live")).to_contain_text("env=prod, tier=web")
    page.get_by_role("link", name="Labels").click()
    page.get_by_label("KEY=VALUE").fill("tier-")
    page.get_by_role("button", name="Labels").click()
    expect(page.locator("#live")).to_contain_text(re.compile(r"labels\s*env=prod\s*created"))


@pytest.mark.parametrize("path", ["/hosts/h1", "/templates/tiny", "/volumes/named-root"])
def test_other_objects_have_labels_too(visit: Visit, served: Served, path: str) -> None:
    if path.startswith("/volumes"):
        served.create_vm("named")
    page = visit.page
    page.goto(path)
    page.get_by_role("link", name="Labels").click()
    page.get_by_label("KEY=VALUE").fill("place=north")
    page.get_by_role("button", name="Labels").click()
    expect(page.locator("#live")).to_contain_text("place=north")


def test_a_guest_says_what_it_is(visit: Visit, served: Served) -> None:
    page, vm = visit.page, served.create_vm("talkative").id
    page.goto(f"/vms/{vm}")
    page.get_by_role("link", name="What its guest says").click()
    expect(page.get_by_role("alert")).to_contain_text("GUEST_AGENT_MISSING")
    for host in served.site.hosts.values():
        host.guest = GuestInfo(host_name="talk", os_name="Debian GNU/Linux")
    page.goto(f"/vms/{vm}/guest")
    expect(page.locator("dl")).to_contain_text("Debian GNU/Linux")
    expect(page.locator("#command")).to_have_text("ostler vm guest info talkative")
