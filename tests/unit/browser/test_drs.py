"""Load balancing in the browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from ostler.control.v1.drs_pb2 import ListPlansRequest
from ostler.control.v1.vm_pb2 import GetVmRequest
from playwright.sync_api import expect

from tests.browsers import WIDE, Visit, check_looks
from tests.consoles import Served

pytestmark = pytest.mark.slow


def test_a_plan_says_why_and_is_executed(
    visit: Visit, served: Served, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page = visit.page
    for number in range(6):
        served.create_vm(f"load-{number}", host="h1")
    page.goto("/drs")
    page.get_by_role("link", name="Plan", exact=True).click()
    page.get_by_label("Most moves").fill("many")
    page.get_by_role("button", name="Plan").click()
    expect(page.get_by_role("alert")).to_contain_text("BAD_NUMBER")
    page.get_by_label("Most moves").fill("2")
    expect(page.locator("#command")).to_have_text("ostler drs generate cluster --migrations 2")
    page.get_by_role("button", name="Plan").click()
    expect(page.locator("h1")).to_contain_text("under review")
    expect(page.get_by_role("columnheader", name="why", exact=True)).to_be_visible()
    page.set_viewport_size(WIDE)
    check_looks(page, "plan", tmp_path, request)
    page.get_by_role("link", name="Execute").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.get_by_role("link", name="To the drs").click()
    expect(page.locator("h1")).to_contain_text("completed")
    plan = served.client.drs.ListPlans(ListPlansRequest()).plans[0]
    assert len(plan.moves) == 2
    for move in plan.moves:
        assert served.client.vms.GetVm(GetVmRequest(vm=move.vm_id)).host_id == move.destination_id
