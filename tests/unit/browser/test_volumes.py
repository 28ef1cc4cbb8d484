"""Volumes in the browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browsers import Visit
from tests.consoles import Served

pytestmark = pytest.mark.slow


def test_a_volume_grows_and_gets_a_snapshot(visit: Visit, served: Served) -> None:
    page = visit.page
    served.create_vm("files")
    page.goto("/volumes")
    page.get_by_label("VM").fill("files")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#command")).to_have_text("ostler volume list --vm files")
    page.get_by_role("link", name="files-root").click()
    expect(page.get_by_role("link", name="Delete")).to_have_count(0)
    page.get_by_role("link", name="Grow").click()
    page.get_by_label("New size").fill("large")
    page.get_by_role("button", name="Grow").click()
    expect(page.get_by_role("alert")).to_contain_text("BAD_SIZE")
    page.get_by_label("New size").fill("20MiB")
    expect(page.locator("#command")).to_have_text("ostler volume grow files-root 20MiB")
    page.get_by_role("button", name="Grow").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.get_by_role("link", name="To the volume files-root").click()
    expect(page.locator("#live")).to_contain_text("20 MiB")
    page.get_by_role("link", name="Snapshot").click()
    page.get_by_label("Name").fill("before")
    page.get_by_role("button", name="Snapshot").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.goto("/volumes")
    page.get_by_role("link", name="files-root").click()
    expect(page.get_by_role("cell", name="before")).to_be_visible()


def test_a_volume_is_created_and_its_snapshot_reverts_and_copies_it(visit: Visit, served: Served) -> None:
    page = visit.page
    page.goto("/volumes")
    page.get_by_role("link", name="Create volume").click()
    page.get_by_label("Name").fill("archive")
    page.get_by_label("Disk offering").fill("encrypted")
    page.get_by_label("Size").fill("20MiB")
    expect(page.locator("#command")).to_have_text("ostler volume create archive --offering encrypted --size 20MiB")
    page.get_by_role("button", name="Create volume").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.get_by_role("link", name="To the volume archive").click()
    expect(page.locator("#live")).to_contain_text("key versionfile:")
    page.get_by_role("link", name="Snapshot", exact=True).click()
    page.get_by_label("Name").fill("first")
    page.get_by_role("button", name="Snapshot").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.goto("/volumes")
    page.get_by_role("link", name="archive", exact=True).click()
    page.get_by_role("link", name="first").click()
    page.get_by_role("link", name="Revert the volume").click()
    expect(page.locator("#command")).to_have_text("ostler snapshot revert first --yes")
    page.get_by_role("button", name="Revert the volume").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.goto("/volumes")
    page.get_by_role("link", name="archive", exact=True).click()
    page.get_by_role("link", name="first").click()
    page.get_by_role("link", name="Create a volume").click()
    page.get_by_label("Name").fill("archive-2")
    expect(page.locator("#command")).to_have_text("ostler volume create --snapshot first archive-2")
    page.get_by_role("button", name="Create a volume").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.get_by_role("link", name="To the volume archive-2").click()
    expect(page.locator("h1")).to_contain_text("ready")


def test_the_key_is_rotated(visit: Visit) -> None:
    page = visit.page
    page.goto("/keys")
    page.get_by_role("link", name="Rotate the key").click()
    expect(page.locator("#command")).to_have_text("ostler key rotate")
    page.get_by_role("button", name="Rotate the key").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.goto("/keys")
    expect(page.get_by_role("cell", name="current")).to_have_count(1)
    expect(page.locator("tbody tr")).to_have_count(2)
