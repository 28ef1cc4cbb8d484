"""Backups in the browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler.control.v1.backup_pb2 import Backup, CreateBackupRequest
from ostler_common.errors import InternalError
from ostler_control.cli.transfers import Digest
from ostler_control.models import Operation
from playwright.sync_api import Page, expect

from tests.browsers import Visit, check_looks
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


def test_a_file_of_a_backup_is_downloaded(
    visit: Visit,
    served: Served,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = visit.page
    served.site.add_backup_store()
    vm = served.create_vm("archive").id
    served.client.wait(served.client.backups.CreateBackup(CreateBackupRequest(vm=vm, name="tuesday")), Backup)
    page.goto("/backups/tuesday")
    page.get_by_role("link", name="Files").click()
    page.get_by_label("Path").fill("/var")
    page.get_by_label("File system").fill("/dev/sda")
    expect(page.locator("#command")).to_have_text("ostler backup file list tuesday /var --filesystem /dev/sda")
    page.get_by_label("Path").clear()
    page.get_by_label("File system").clear()
    page.get_by_role("button", name="Read").click()
    page.get_by_role("link", name="/dev/sda").click()
    expect(page.locator("#command")).to_have_text("ostler backup file list tuesday / --filesystem /dev/sda")
    expect(page.get_by_role("link", name="content", exact=True)).to_be_visible()
    check_looks(page, "backup-files", tmp_path, request)
    with page.expect_download() as download:
        page.get_by_role("link", name="content", exact=True).click()
    assert download.value.suggested_filename == "content"
    assert download.value.path().read_bytes()

    def is_damaged(digest: Digest, size_bytes: int, sha256: str, name: str) -> None:
        raise InternalError(f"{name} was damaged on its way", "DAMAGED")

    monkeypatch.setattr(Digest, "check", is_damaged)
    with page.expect_download() as download:
        page.get_by_role("link", name="content", exact=True).click()
    assert download.value.failure()
    begun = Operation.select().where(Operation.verb == "backup.read-files").count()
    assert begun == 4, "the browser began it again"


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
