"""ISO images in the browser."""

from __future__ import annotations

import uuid

import pytest
from ostler.control.v1.iso_pb2 import UploadIsoRequest
from ostler_agent.tools import iso
from playwright.sync_api import expect

from tests.browsers import Visit
from tests.consoles import Served

pytestmark = pytest.mark.slow


def test_an_iso_image_is_attached_ejected_and_deleted(visit: Visit, served: Served) -> None:
    page, image = visit.page, iso.build("drivers", {"readme": b"read me"})
    header = UploadIsoRequest.Header(request_id=str(uuid.uuid4()), name="drivers", file_size_bytes=len(image))
    served.client.isos.UploadIso(iter([UploadIsoRequest(header=header), UploadIsoRequest(data=image)]))
    vm = served.create_vm("installed").id
    page.goto(f"/vms/{vm}")
    expect(page.get_by_role("link", name="Eject ISO image")).to_have_count(0)
    page.get_by_role("link", name="Attach ISO image").click()
    page.get_by_label("ISO image").fill("drivers")
    page.get_by_label("Boot from it").check()
    expect(page.locator("#command")).to_have_text("ostler vm iso attach installed drivers --boot-first")
    page.get_by_role("button", name="Attach ISO image").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.goto("/catalog")
    page.get_by_role("link", name="drivers", exact=True).click()
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("alert")).to_contain_text("ISO_IN_USE")
    page.goto(f"/vms/{vm}")
    expect(page.get_by_role("cell", name="drivers")).to_be_visible()
    page.get_by_role("link", name="Eject ISO image").click()
    page.get_by_label("ISO image").fill("drivers")
    page.get_by_role("button", name="Eject ISO image").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.goto("/isos/drivers/do/delete")
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("h1")).to_have_text("Catalog")
    expect(page.get_by_role("link", name="drivers", exact=True)).to_have_count(0)
