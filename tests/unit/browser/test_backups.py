"""Backups in the browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browsers import Visit
from tests.consoles import Served

pytestmark = pytest.mark.slow


def test_a_vm_is_backed_up_verified_restored_and_its_backup_deleted(visit: Visit, served: Served) -> None:
    page = visit.page
    served.site.add_backup_store()
    page.goto(f"/vms/{served.create_vm('ledger').id}")
    page.get_by_role("link", name="Back up").click()
    page.get_by_label("Name").fill("monday")
    expect(page.locator("#command")).to_have_text("ostler backup create ledger --name monday")
    send(page, "Back up")
    page.get_by_role("link", name="To the backup monday").click()
    expect(page.locator("h1")).to_contain_text("ready")

    page.get_by_role("link", name="Verify").click()
    expect(page.locator("#command")).to_have_text("ostler backup verify monday")
    send(page, "Verify")

    open_backup(page)
    page.get_by_role("link", name="Test boot").click()
    page.get_by_label("Seconds for it").fill("60")
    expect(page.locator("#command")).to_have_text("ostler backup verify monday --boot --timeout 60")

    open_backup(page)
    page.get_by_role("link", name="Restore to a new VM").click()
    page.get_by_label("Name of the new VM").fill("ledger-again")
    expect(page.locator("#command")).to_have_text("ostler backup restore monday --name ledger-again")
    send(page, "Restore to a new VM")
    page.get_by_role("link", name="To the vm ledger-again").click()
    expect(page.locator("h1")).to_contain_text("stopped")

    open_backup(page)
    page.get_by_role("link", name="Restore one disk").click()
    page.get_by_label("Slot of the disk").fill("first")
    page.get_by_label("Name of the new volume").fill("ledger-disk")
    page.get_by_role("button", name="Restore one disk").click()
    expect(page.get_by_role("alert")).to_contain_text("BAD_NUMBER")
    page.get_by_label("Slot of the disk").fill("0")
    expect(page.locator("#command")).to_have_text("ostler backup restore monday --disk 0 --name ledger-disk")
    send(page, "Restore one disk")

    open_backup(page)
    page.get_by_role("link", name="Restore over the VM").click()
    page.get_by_role("button", name="Restore over the VM").click()
    expect(page.get_by_role("alert")).to_contain_text("VM_STATE")

    open_backup(page)
    page.get_by_role("link", name="Delete").click()
    send(page, "Delete")
    page.goto("/backups?vm=ledger")
    expect(page.locator("#command")).to_have_text("ostler backup list --vm ledger")
    expect(page.get_by_role("cell", name="monday")).to_have_count(0)
    expect(page.get_by_role("cell", name="store")).to_be_visible()


def test_backups_are_scheduled_and_the_schedule_is_deleted(visit: Visit, served: Served) -> None:
    page = visit.page
    served.site.add_backup_store()
    page.goto(f"/vms/{served.create_vm('calendar').id}")
    page.get_by_role("link", name="Schedule backups").click()
    page.get_by_role("button", name="Schedule backups").click()
    expect(page.get_by_role("alert")).to_contain_text("CONFLICTING_FIELDS")
    page.get_by_label("Every day").check()
    page.get_by_label("When, UTC").fill("25:00")
    page.get_by_role("button", name="Schedule backups").click()
    expect(page.get_by_role("alert")).to_contain_text("INVALID_SCHEDULE")
    page.get_by_label("When, UTC").fill("02:30")
    page.get_by_label("newest of each day").fill("7")
    expect(page.locator("#command")).to_have_text(
        "ostler backup schedule create calendar --daily --at 02:30 --keep-daily 7"
    )
    page.get_by_role("button", name="Schedule backups").click()
    expect(page.locator("dl")).to_contain_text("daily, 02:30 UTC")
    page.goto("/backups")
    row = page.get_by_role("row").filter(has_text="daily, 02:30 UTC")
    row.get_by_role("link", name="calendar").click()
    page.get_by_role("link", name="Labels").click()
    page.get_by_label("KEY=VALUE").fill("rule=weekdays")
    page.get_by_role("button", name="Labels").click()
    expect(page.locator("dl")).to_contain_text("rule=weekdays")
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("h1")).to_have_text("Backups")
    expect(page.get_by_role("cell", name="daily, 02:30 UTC")).to_have_count(0)


def send(page: Page, button: str) -> None:
    page.get_by_role("button", name=button).click()
    expect(page.locator("h1")).to_contain_text("succeeded")


def open_backup(page: Page) -> None:
    page.goto("/backups")
    page.get_by_role("link", name="monday", exact=True).click()
