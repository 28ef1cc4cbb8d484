"""One site, one console and one browser for all tests of pages."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from ostler_control import database
from ostler_control.models import Host
from playwright.sync_api import BrowserContext, expect, sync_playwright

from tests.browsers import ARGUMENTS, CHROMIUM, WAIT_MS, Visit
from tests.consoles import Served, console, served_site

# Small, so that a few VMs fill them.
CPUS, MEMORY_BYTES = 8, 6 << 30
CAPABILITIES = {
    "cpus": CPUS,
    "memoryBytes": str(MEMORY_BYTES),
    "volumeEncryption": True,
    "instanceConversion": True,
    "uefi": True,
    "probes": [{"name": "tpm", "ok": False, "reason": "swtpm is not installed"}],
}


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_site(tmp_path_factory.mktemp("console")) as found:
        with database.transaction():
            Host.update(cpus=CPUS, memory_bytes=MEMORY_BYTES).execute()
            Host.update(capabilities=json.dumps(CAPABILITIES)).where(Host.volume_encryption).execute()
        yield found


@pytest.fixture(scope="package")
def context(served: Served) -> Iterator[BrowserContext]:
    """A browser that has come in by the link."""
    expect.set_options(timeout=WAIT_MS)
    with console(served.profile) as link, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        found = browser.new_context(base_url=link.partition("/enter")[0])
        found.set_default_timeout(WAIT_MS)
        page = found.new_page()
        page.goto(link)
        page.close()
        yield found
        browser.close()


@pytest.fixture
def visit(context: BrowserContext) -> Iterator[Visit]:
    """A page of its own. What it complains about fails the test."""
    found = Visit(context.new_page())
    yield found
    found.page.close()
    assert found.complaints == []
