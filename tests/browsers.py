"""A browser before the console."""

from __future__ import annotations

from dataclasses import dataclass, field

from playwright.sync_api import ConsoleMessage, Page, ViewportSize

CHROMIUM = "/usr/bin/chromium"
# Chromium's own sandbox does not work for root.
ARGUMENTS = ("--no-sandbox",)
# How long a busy machine may take for a page, or for an operation.
WAIT_MS = 60_000
WIDE, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)


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
