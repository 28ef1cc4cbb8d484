"""A browser before the console."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page, ViewportSize

CHROMIUM = "/usr/bin/chromium"
# Chromium's own sandbox does not work for root.
ARGUMENTS = ("--no-sandbox",)
# How long a busy machine may take for a page, or for an operation.
WAIT_MS = 60_000
WIDE, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/images/web"
# Those that docs/web.md shows; with --regenerate they are made anew.
SHOWN = ("fleet-light", "vm-dark", "migrate-light", "plan-light", "board-light")
AXE = ROOT / "tests/unit/browser/vendor/axe.min.js"
GRAVE = ("serious", "critical")


@dataclass
class Visit:
    """A page in the browser. complaints: errors of its scripts, and what the security policy forbade."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open_vm(self, name: str) -> None:
        """To the VM's page, through the list."""
        self.page.goto("/vms")
        self.page.get_by_role("link", name=name, exact=True).click()

    def _hear(self, message: ConsoleMessage) -> None:
        # Chromium also reports answers with an error's status, which some tests want.
        if message.type == "error" and "status of 4" not in message.text:
            self.complaints.append(message.text)


def check_looks(page: Page, name: str, tmp: Path, request: pytest.FixtureRequest) -> None:
    """The page is readable by people and by screen readers, in light and dark, on a desk and on a phone."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert findings(page) == [], scheme
        _take_picture(page, f"{name}-{scheme}", tmp, request)
    page.set_viewport_size(PHONE)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"], "the page scrolls sideways"
    _take_picture(page, f"{name}-phone", tmp, request)
    page.set_viewport_size(WIDE)


def findings(page: Page) -> list[str]:
    """What axe finds wrong on the page, as far as it is grave."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in GRAVE]


def _take_picture(page: Page, name: str, tmp: Path, request: pytest.FixtureRequest) -> None:
    """Those that are not shown are left for a look at them."""
    if name in SHOWN and not request.config.getoption("--regenerate"):
        assert (PICTURES / f"{name}.png").exists()
        return
    directory = PICTURES if name in SHOWN else tmp
    directory.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=directory / f"{name}.png", full_page=True)
