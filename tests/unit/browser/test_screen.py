"""A VM's screen in the browser: noVNC before a real QEMU's VNC server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler.control.v1.vm_pb2 import StopVmRequest, Vm
from ostler_agent.conformance.assertions import wait_for
from playwright.sync_api import expect

from tests.browsers import WIDE, Visit, check_looks
from tests.consoles import Served

pytestmark = pytest.mark.slow

# How many points of the picture are not black. The firmware's blinking cursor is one or two dozens of them.
LIT = """() => {
  const canvas = document.querySelector("#screen canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let lit = 0;
  for (let index = 0; index < data.length; index += 4) if (data[index] > 64) lit += 1;
  return lit;
}"""
CURSOR = 100


@pytest.fixture
def screen(served: Served, tmp_path: Path) -> Iterator[None]:
    """QEMU's firmware waits for a key for a minute, and shows its boot menu then."""
    binary = shutil.which("qemu-system-x86_64")
    assert binary, "qemu-system-x86 is not installed"
    path = tmp_path / "vnc"
    argv = [binary, "-accel", "tcg", "-m", "64", "-nodefaults", "-device", "VGA", "-display", "none"]
    argv += ["-vnc", f"unix:{path}", "-boot", "menu=on,splash-time=60000"]
    with subprocess.Popen(argv) as process:
        try:
            wait_for(path.exists, "QEMU's socket", 30)
            for host in served.site.fleet.hosts.values():
                host.screen = path
            yield
        finally:
            for host in served.site.fleet.hosts.values():
                host.screen = None
            process.kill()


@pytest.mark.usefixtures("screen")
def test_the_screen_shows_the_guest_and_sends_it_keys(
    visit: Visit, served: Served, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page = visit.page
    page.set_viewport_size(WIDE)
    vm = served.create_vm("desk").id
    page.goto(f"/vms/{vm}")
    page.get_by_role("link", name="Screen").click()
    expect(page.locator("#command")).to_have_text("ostler vm vnc desk")
    expect(page.locator("#state")).to_have_text("Connected.")
    page.wait_for_function(f"() => ({LIT})() > {CURSOR}")
    check_looks(page, "screen", tmp_path, request)
    before: int = page.evaluate(LIT)
    page.locator("#screen canvas").click()
    page.keyboard.press("Escape")
    page.wait_for_function(f"before => ({LIT})() > before + {CURSOR}", arg=before)
    page.keyboard.press("Control+]")
    expect(page.get_by_role("link", name="desk")).to_be_focused()
    served.client.wait(served.client.vms.StopVm(StopVmRequest(vm=vm, force=True)), Vm)
    page.reload()
    expect(page.locator("#state")).to_contain_text("VM_STATE")
    expect(page.get_by_role("button", name="Connect again")).to_be_visible()
