"""How soon the web console shows something: `python -m tests.bench.console [HOSTS VMS]`.

The services of a control plane on SQLite with 1,000 hosts and 10,000 VMs, `ostler web`, and Chromium, each a process of
its own on this machine. For each page the times from the click to the first content (first-contentful-paint), with the
browser's cache of scripts and styles warm, as after the first page, and nothing else going on.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.browsers import ARGUMENTS, CHROMIUM
from tests.consoles import served_rows
from tests.fakes.working_agent import wait_until

HOSTS, VMS, VISITS = 1_000, 10_000, 20
LIMIT_MS = 300
READY = "profile-path"
PAGES = {
    "fleet": "/",
    "fleet, one cluster": "/?cluster=cluster",
    "a host": "/hosts/h500",
    "VMs": "/vms",
    "VMs of a host": "/vms?host=h500",
    "a VM": "/vms/old5000",
    "hosts for a VM": "/vms/old5000/hosts",
    "volumes": "/volumes",
    "backups": "/backups",
    "DRS": "/drs?cluster=cluster",
    "catalog": "/catalog",
    "operations": "/operations",
    "events": "/events",
}
_IS_COMPLETE = "() => !document.querySelector('[data-live=now]') || document.body.dataset.updated"
_PAINT = "() => performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"


@dataclass(frozen=True)
class Figures:
    """Times of one page, milliseconds."""

    page: str
    median_ms: float
    p95_ms: float


@contextlib.contextmanager
def _link(directory: Path, hosts: int, vms: int) -> Iterator[str]:
    """The link that opens the console."""
    serve = [sys.executable, "-m", "tests.bench.console", "serve", str(directory), str(hosts), str(vms)]
    with contextlib.ExitStack() as stack:
        services = stack.enter_context(subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
        stack.callback(services.kill)
        ready = directory / READY
        wait_until(lambda: ready.exists() or services.poll() is not None, 120)
        profile = ready.read_text()
        web = [str(Path(sys.executable).parent / "ostler"), "--profile", profile, "web"]
        console = stack.enter_context(subprocess.Popen(web, stdout=subprocess.PIPE, text=True))
        stack.callback(console.kill)
        assert console.stdout is not None
        yield console.stdout.readline().strip()


def _serve(directory: str, hosts: str, vms: str) -> None:
    """Until standard input ends."""
    with served_rows(Path(directory), int(hosts), int(vms)) as profile:
        Path(directory, READY).write_text(str(profile))
        sys.stdin.read()


def _visit(page: Page, path: str) -> float:
    # The page before is complete: otherwise the control plane may still be at work for it.
    page.wait_for_function(_IS_COMPLETE)
    page.goto("about:blank")
    page.goto(path)
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
    return float(page.evaluate(_PAINT)[0])


def measure(hosts: int, vms: int) -> Iterator[Figures]:
    """Page by page; each is visited once before, and then `VISITS` times."""
    with (
        tempfile.TemporaryDirectory() as directory,
        _link(Path(directory), hosts, vms) as link,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_context(base_url=link.partition("/enter")[0]).new_page()
        page.goto(link)
        for name, path in PAGES.items():
            _visit(page, path)
            times = sorted(_visit(page, path) for _ in range(VISITS))
            yield Figures(name, statistics.median(times), times[int(0.95 * len(times)) - 1])
        browser.close()


def main(hosts: int = HOSTS, vms: int = VMS) -> bool:
    """Prints the figures; returns whether all are within the limit."""
    print(f"first content of the console's pages, {hosts:,} hosts and {vms:,} VMs (goal: {LIMIT_MS} ms)")
    ok = True
    for found in measure(hosts, vms):
        ok &= found.p95_ms <= LIMIT_MS
        print(f"{found.page:20} {found.median_ms:6.0f} ms median {found.p95_ms:6.0f} ms p95", flush=True)
    return ok


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        _serve(*sys.argv[2:])
    else:
        main(*map(int, sys.argv[1:]))
