"""How pages look: readable by people and by screen readers, in light and dark, on a desk and on a phone.

With --regenerate the pictures of docs/web.md are made anew; look at each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browsers import PHONE, WIDE, Visit
from tests.consoles import Served

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "docs/images/web"
AXE = Path(__file__).parent / "vendor/axe.min.js"
GRAVE = ("serious", "critical")
# Those that docs/web.md shows.
SHOWN = ("fleet-light", "vm-dark", "migrate-light")


@pytest.fixture(scope="module")
def vm(served: Served) -> str:
    """Path of a VM's page."""
    for name in ("mail", "shop"):
        served.create_vm(name)
    return f"/vms/{served.create_vm('wiki').id}"


def findings(page: Page) -> list[str]:
    """What axe finds wrong on the page, as far as it is grave."""
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in GRAVE]


PAGES: dict[str, Callable[[str], str]] = {
    "fleet": lambda vm: "/",
    "host": lambda vm: "/hosts/h1",
    "vms": lambda vm: "/vms",
    "vm": lambda vm: vm,
    "hosts-for": lambda vm: f"{vm}/hosts",
    "console": lambda vm: f"{vm}/console",
    "migrate": lambda vm: f"{vm}/do/migrate",
    "volumes": lambda vm: "/volumes?encryption=encrypted",
    "operations": lambda vm: "/operations",
    "events": lambda vm: "/events",
    "failure": lambda vm: "/vms/absent",
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_readable(name: str, visit: Visit, vm: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = visit.page
    page.set_viewport_size(WIDE)
    page.goto(PAGES[name](vm))
    page.evaluate(AXE.read_text())
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert findings(page) == [], scheme
        picture(page, f"{name}-{scheme}", tmp_path, request)
    page.set_viewport_size(PHONE)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"], "the page scrolls sideways"
    picture(page, f"{name}-phone", tmp_path, request)


def picture(page: Page, name: str, tmp: Path, request: pytest.FixtureRequest) -> None:
    """Makes the picture anew when that is asked for; those that are not shown are left for a look at them."""
    directory = PICTURES if name in SHOWN else tmp
    if name not in SHOWN or request.config.getoption("--regenerate"):
        directory.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=directory / f"{name}.png", full_page=True)
    assert (directory / f"{name}.png").stat().st_size > 0


def test_axe_finds_what_is_grave(visit: Visit) -> None:
    visit.page.set_content("<html><body><img src='data:,'><button></button></body></html>")
    visit.page.evaluate(AXE.read_text())
    assert {one.partition(":")[0] for one in findings(visit.page)} >= {"image-alt", "button-name"}
