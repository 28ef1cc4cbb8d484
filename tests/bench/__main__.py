"""`make bench`: all measurements, a table, and docs/benchmarks.md."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from tests.bench import conversions, copies, guest_io, imports, measure, page, placement, warm_imports
from tests.bench.measure import Result
from tests.lab.fleet import Fleet
from tests.lab.host import REPOSITORY
from tests.lab.lab import Lab, missing

HEAD = """\
# Benchmarks

Written by `make bench` on {date}, on {machine}. Both sides of a line were measured in the same run on the same machine,
so the ratios carry over to others better than the seconds do. Guests ran without KVM; disks were on {file_system}.

| | with Ostler | without | | limit |
|---|---|---|---|---|
"""


def placements() -> Iterator[Result]:
    for kind in ("sqlite", "postgresql"):
        found = placement.measure(kind)
        yield Result(
            f"placement on {kind}: {placement.HOSTS:,} hosts, {placement.VMS:,} VMs, one process",
            f"{found.median_s * 1000:.1f} ms each",
            "",
            f"{found.per_s:.0f} a second, the first in {found.first_s * 1000:.0f} ms",
            f"at least {placement.LEAST_PER_S} a second, the first in {placement.FIRST_WITHIN_S * 1000:.0f} ms",
            found.ok,
        )


def results() -> Iterator[Result]:
    yield from placements()
    yield from imports.results()
    yield warm_imports.downtime()
    with Lab.start(hosts=2) as lab:
        fleet = Fleet.make(lab)
        yield from measure.create_and_grow(fleet)
        yield from copies.live(fleet)
        yield from copies.encryption(fleet)
        yield measure.start_cpu(fleet)
        yield measure.migration(fleet)
        yield conversions.export_and_convert(fleet)
        page.replace(guest_io.HEADING, guest_io.section(guest_io.measure(fleet)))
        fleet.watch.stop()


def file_system() -> str:
    argv = ["stat", "--file-system", "--format", "%T", "/tmp"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    if reason := missing():
        raise SystemExit(reason)
    begin = time.monotonic()
    lines, ok = [], True
    for result in results():
        mark = "" if result.ok else " **missed**"
        lines.append(f"| {result.what} | {result.ostler} | {result.bare} | {result.figure}{mark} | {result.limit} |")
        ok &= result.ok
        print(f"{'ok    ' if result.ok else 'MISSED'} {result.what}: {result.figure} ({result.limit})", flush=True)
        print(f"       {result.ostler} with Ostler{f', {result.bare} without' if result.bare else ''}", flush=True)
    head = HEAD.format(date=time.strftime("%Y-%m-%d"), machine=page.machine(), file_system=file_system())
    # Under other headings is what other measurements have written, or what was written by hand.
    page.replace("", head + "\n".join(lines))
    print(f"{page.PAGE.relative_to(REPOSITORY)} is written; it took {time.monotonic() - begin:.0f} s")
    sys.exit(not ok)


if __name__ == "__main__":
    main()
