"""Warm imports from VMware: how long the VM is down, against an import that shuts it down first.

Both read from a vCenter of the same rate, and both without virt-v2v, which takes the same time in both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from ostler_control.database import transaction
from ostler_control.imports import sources
from ostler_control.imports.facts import find_vm
from ostler_control.imports.record import record_import
from ostler_control.imports.wanted import Wanted
from ostler_control.models import Host, ImportSource, Operation, ServiceOffering, new_id
from ostler_control.operations import Engine

from tests import databases
from tests.bench.measure import Result
from tests.fakes.vcenter import FakeVcenter, vcenter
from tests.sites import Site, outcome, site_at_work
from tests.unit.imports.vm_imports import new_source
from tests.unit.imports.warm_site import cut_over, wait_for_phase, warm_spec
from tests.unit.vmware.conftest import NETWORK

MIB = 1 << 20
DISK_BYTES, RATE_BYTES_PER_S = 512 * MIB, 4 * MIB
REWRITTEN_PERCENT = 1
MAX_SHARE = 0.1


def downtime() -> Result:
    """A guest that rewrites a hundredth of its disk while it is copied."""
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        disk = directory / "disk"
        random = Random(1)
        with disk.open("wb") as file:
            for _ in range(DISK_BYTES // MIB):
                file.write(random.randbytes(MIB))
        machines = [warm_spec("cold", [disk]), warm_spec("warm", [disk])]
        machines[0]["disks"][0]["file"] = str(disk)
        (directory / "vc").mkdir()
        (directory / "site").mkdir()
        with (
            databases.bound(f"sqlite:///{directory}/site/ostler.sqlite") as url,
            vcenter(directory / "vc", machines) as server,
            site_at_work(url, directory / "site") as (site, engine),
        ):
            Host.update(capabilities='{"instanceConversion": true}').where(Host.name != "h3").execute()
            offering = ServiceOffering.create(name="two", cpus=2, memory_bytes=1 << 30)
            source = sources.create(new_source(server, id=new_id()), "root", site.keys)

            def wanted(name: str, *, warm: bool) -> Wanted:
                networks = {NETWORK: site.network}
                return Wanted(source, name, site.account, offering, networks=networks, warm=warm, shutdown=not warm)

            server.faults(bytes_per_sec={"disk-0.vmdk": RATE_BYTES_PER_S})
            cold_s = _cold_s(lambda: _begin(site, source, wanted("cold", warm=False)), engine)
            server.faults()
            warm_s = _warm_s(lambda: _begin(site, source, wanted("warm", warm=True)), engine, server)
    share = warm_s / cold_s
    return Result(
        f"downtime of a warm cut-over after {REWRITTEN_PERCENT} % of {DISK_BYTES // MIB} MiB were rewritten, against an"
        f" import that shuts down first, {RATE_BYTES_PER_S // MIB} MiB/s, both without virt-v2v",
        f"{warm_s:.1f} s",
        f"{cold_s:.1f} s",
        f"{share:.3f} of it",
        f"at most {MAX_SHARE}",
        share <= MAX_SHARE,
    )


def _begin(site: Site, source: ImportSource, wanted: Wanted) -> Operation:
    with sources.connect(source, site.keys) as connection:
        vm = find_vm(connection, wanted.source_vm)
    with transaction():
        return record_import(wanted, vm, True, "root", site.keys)


def _cold_s(record: Callable[[], Operation], engine: Engine) -> float:
    begin = time.monotonic()
    operation = record()
    engine.launch(operation)
    assert outcome(engine, operation, 600) == ("succeeded", "")
    return time.monotonic() - begin


def _warm_s(record: Callable[[], Operation], engine: Engine, server: FakeVcenter) -> float:
    operation = record()
    engine.launch(operation)
    wait_for_phase(operation, "waiting for the cut-over", 120)
    random = Random(2)
    for _ in range(DISK_BYTES * REWRITTEN_PERCENT // 100 // (64 << 10)):
        server.write("warm", random.randrange(DISK_BYTES >> 16) << 16, random.randbytes(64 << 10))
    server.faults(folder_bytes_per_sec=RATE_BYTES_PER_S)
    begin = time.monotonic()
    cut_over(operation)
    assert outcome(engine, operation, 600) == ("succeeded", "")
    return time.monotonic() - begin


if __name__ == "__main__":
    print(downtime())
