"""Hosts and settings in the browser."""

from __future__ import annotations

import pytest
from ostler.control.v1.network_pb2 import CreateNetworkRequest
from ostler.control.v1.setting_pb2 import GetSettingRequest
from playwright.sync_api import expect

from tests.browsers import Visit
from tests.consoles import Served

pytestmark = pytest.mark.slow


def test_a_host_is_evacuated_and_comes_back(visit: Visit, served: Served) -> None:
    page = visit.page
    vm = served.create_vm("guest", host="h1").id
    page.goto("/")
    page.get_by_role("link", name="h1", exact=True).first.click()
    page.get_by_role("link", name="Maintenance").click()
    page.get_by_label("Reason").fill("new disks")
    expect(page.locator("#command")).to_have_text("ostler host maintenance enter h1 --reason 'new disks'")
    page.get_by_role("button", name="Maintenance").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.goto(f"/vms/{vm}")
    expect(page.locator("dl")).to_contain_text("h2")
    page.goto("/hosts/h1")
    expect(page.locator("h1")).to_contain_text("maintenance")
    page.get_by_role("link", name="End maintenance").click()
    page.get_by_label("Migrate evacuated VMs back").check()
    page.get_by_role("button", name="End maintenance").click()
    expect(page.locator("h1")).to_contain_text("succeeded")
    page.goto(f"/vms/{vm}")
    expect(page.locator("dl")).to_contain_text("h1")


def test_a_setting_is_changed_for_a_cluster(visit: Visit, served: Served) -> None:
    page = visit.page
    page.goto("/settings")
    page.get_by_role("link", name="vm.stop.timeout").click()
    page.get_by_role("link", name="Change").click()
    expect(page.locator("#command")).to_have_text("ostler setting set vm.stop.timeout VALUE")
    page.get_by_label("Value").fill("never")
    page.get_by_role("button", name="Change").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Value").fill("77")
    page.get_by_label("For this cluster").fill("cluster")
    page.get_by_role("button", name="Change").click()
    expect(page.locator("dl")).to_contain_text("cluster cluster")
    wanted = GetSettingRequest(name="vm.stop.timeout", cluster="cluster")
    assert served.client.settings.GetSetting(wanted).value == "77"
    page.get_by_role("link", name="Reset").click()
    page.get_by_label("For this cluster").fill("cluster")
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("dl")).to_contain_text("default")


def test_zones_clusters_pools_and_networks_have_pages_where_labels_change(visit: Visit, served: Served) -> None:
    page = visit.page
    served.client.networks.CreateNetwork(CreateNetworkRequest(name="office", bridge="br0"))
    page.goto("/")
    page.get_by_role("link", name="zone", exact=True).first.click()
    page.get_by_role("link", name="Its clusters").click()
    page.get_by_role("link", name="cluster", exact=True).first.click()
    expect(page.locator("h1")).to_have_text("Cluster cluster")
    expect(page.get_by_role("link", name="Its hosts")).to_have_attribute("href", "/?cluster=cluster")
    for noun, name in (("cluster", "cluster"), ("pool", "shared"), ("network", "office")):
        page.goto(f"/{noun}s/{name}")
        page.get_by_role("link", name="Labels").click()
        page.get_by_label("sets one").fill("tier=gold")
        expect(page.locator("#command")).to_have_text(f"ostler {noun} label {name} tier=gold")
        page.get_by_role("button", name="Labels").click()
        expect(page.locator("dl")).to_contain_text("tier=gold")
    page.goto("/clusters?selector=tier%3Dgold")
    expect(page.get_by_role("link", name="cluster", exact=True)).to_be_visible()
